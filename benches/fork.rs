//! The time of a fork beside large shards in host memory, and of a wipe while the child lives.
//!
//! Run `cargo bench --bench fork`; `VRAM_FORK_GIB=16` sets another size than 1 GiB, and
//! `VRAM_FORK_LOCK=1` locks the memory first.
//!
//! `Host` maps private memory and asks for huge pages. The bench maps memory in the same way, and
//! in the two rejected ways: with small pages, and shared (where a wipe changes the memory of the
//! child).

use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::ptr;
use std::time::Instant;

const TIMES: usize = 5;

/// The size of a piece, as in the wipe of `Host`: each piece is returned to the kernel after its
/// wipe.
const PIECE: usize = 16 << 20;

struct Way {
    name: &'static str,
    flags: i32,
    advice: i32,
}

const WAYS: [Way; 3] = [
    Way {
        name: "shared",
        flags: libc::MAP_SHARED,
        advice: libc::MADV_NORMAL,
    },
    Way {
        name: "private, small pages",
        flags: libc::MAP_PRIVATE,
        advice: libc::MADV_NOHUGEPAGE,
    },
    Way {
        name: "private, huge pages",
        flags: libc::MAP_PRIVATE,
        advice: libc::MADV_HUGEPAGE,
    },
];

fn main() {
    let gib: usize =
        std::env::var("VRAM_FORK_GIB").map_or(1, |text| text.parse().expect("a number of GiB"));
    let lock = std::env::var_os("VRAM_FORK_LOCK").is_some_and(|value| value == "1");
    println!("{gib} GiB, locked: {lock}");
    for way in &WAYS {
        let mut memory = Memory::map(way, gib << 30, lock);
        println!("{}", way.name);
        let forks: Vec<f64> = (0..TIMES).map(|_| fork_and_exit()).collect();
        println!("  fork                 {}", spread(forks));
        memory.wipe_alone(lock);
        memory.wipe_under_a_child(lock);
    }
}

struct Memory {
    base: *mut u8,
    len: usize,
}

impl Memory {
    fn map(way: &Way, len: usize, lock: bool) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_ANONYMOUS | way.flags;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        // SAFETY: the range is the new mapping.
        let _advised = unsafe { libc::madvise(base, len, way.advice) };
        if lock {
            let began = Instant::now();
            // SAFETY: the range is the new mapping.
            let locked = unsafe { libc::mlock(base, len) };
            assert_eq!(locked, 0, "the limit of locked memory is too small");
            println!("  lock                 {:.0} ms", ms(began));
        }
        let base = base.cast();
        let mut memory = Self { base, len };
        memory.bytes().fill(1);
        memory
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable and writable until it is dropped, and borrowed only here.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// Wipes the memory. Returns the time, and the peak of the machine's memory in use, above the
    /// use before.
    fn wipe(&mut self, lock: bool) -> (f64, i64) {
        let before = in_use();
        let mut most = before;
        let began = Instant::now();
        for piece in self.bytes().chunks_mut(PIECE) {
            piece.fill(0);
            black_box(&piece);
            most = most.max(in_use());
            let address = piece.as_mut_ptr().cast();
            if lock {
                // SAFETY: the range is the piece.
                unsafe { libc::munlock(address, piece.len()) };
            }
            // SAFETY: the range is the piece, whose bytes are zero before and after.
            unsafe { libc::madvise(address, piece.len(), libc::MADV_DONTNEED) };
        }
        (ms(began), (most - before) >> 10)
    }

    fn wipe_alone(&mut self, lock: bool) {
        let (time, _) = self.wipe(lock);
        println!("  wipe, no child       {time:.0} ms");
        self.bytes().fill(1);
        if lock {
            // SAFETY: the range is the mapping.
            unsafe { libc::mlock(self.base.cast(), self.len) };
        }
    }

    fn wipe_under_a_child(&mut self, lock: bool) {
        let (mut told, mut tell) = std::io::pipe().unwrap();
        let (mut listen, mut go) = std::io::pipe().unwrap();
        // SAFETY: no other thread runs; the child uses only inherited memory and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let inherited = page_tables();
            let began = Instant::now();
            let sum: u64 = self
                .bytes()
                .iter()
                .step_by(4096)
                .map(|b| u64::from(*b))
                .sum();
            black_box(sum);
            let time = ms(began);
            println!("  the child reads all  {time:.0} ms");
            let all = page_tables();
            println!("  its page tables      {inherited} kB, then {all} kB");
            tell.write_all(b"x").unwrap();
            listen.read_exact(&mut [0]).unwrap();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        }
        told.read_exact(&mut [0]).unwrap();
        let (time, more) = self.wipe(lock);
        println!("  wipe, living child   {time:.0} ms, {more} MiB more memory at most");
        go.write_all(b"x").unwrap();
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping, which nothing borrows.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn fork_and_exit() -> f64 {
    let began = Instant::now();
    // SAFETY: the child ends immediately.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let time = ms(began);
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    time
}

/// Returns the memory of all processes on this machine, in KiB.
fn in_use() -> i64 {
    field("/proc/meminfo", "AnonPages:") + field("/proc/meminfo", "Shmem:")
}

fn page_tables() -> i64 {
    field("/proc/self/status", "VmPTE:")
}

fn field(file: &str, name: &str) -> i64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let [first, last] = [0, times.len() - 1].map(|at| times[at]);
    format!("{:.2} ms [{first:.2} .. {last:.2}]", times[times.len() / 2])
}
