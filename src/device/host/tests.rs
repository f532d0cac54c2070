//! The kernel's view of our mappings, read from `/proc/self`.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_digest::CHUNK_BYTES;

use super::super::Bound;
use super::*;

fn memory(host: &Host, len: u64) -> HostMemory {
    host.allocate(len, Permit::mint()).unwrap()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn address(memory: &HostMemory) -> u64 {
    memory.base.as_ptr() as u64
}

/// Returns the part of `/proc/self/smaps` about the mapping with this address, and its access
/// flags.
fn mapping(address: u64) -> Option<(String, String)> {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = text.lines();
    let access = lines.find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        (start..end)
            .contains(&address)
            .then(|| rest[..4].to_string())
    })?;
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"))?;
    Some((access, flags.to_string()))
}

/// Returns whether there is a mapping of exactly these bytes, in whole pages.
///
/// Other tests map and unmap meanwhile, and may reuse our address. So the length must be one that
/// no other test uses.
fn is_mapped(address: u64, len: u64) -> bool {
    let end = address + len.next_multiple_of(rustix::param::page_size() as u64);
    let range = format!("{address:08x}-{end:08x} ");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| line.starts_with(&range))
}

/// Held by tests that fork, and by those that look at memory of which no child may have a copy.
static FORKING: Mutex<()> = Mutex::new(());

fn no_other_forks() -> MutexGuard<'static, ()> {
    FORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A second reference to the page at an address, held by a pipe. It shows the page's last content,
/// even after the page was unmapped.
struct Witness(fs::File);

impl Witness {
    fn of_page_at(address: u64) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let page = libc::iovec {
            iov_base: address as *mut c_void,
            iov_len: rustix::param::page_size(),
        };
        // SAFETY: the pipe takes a reference to the page, which is mapped; nothing is written to it.
        let taken = unsafe { libc::vmsplice(writer.as_raw_fd(), &page, 1, 0) };
        assert_eq!(taken, page.iov_len as isize);
        Self(std::os::fd::OwnedFd::from(reader).into())
    }

    fn read(mut self) -> Vec<u8> {
        let mut bytes = vec![1; rustix::param::page_size()];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn a_mapping_is_private_inherited_and_out_of_dumps() {
    let host = Host::new();
    let memory = memory(&host, 5);
    let (access, flags) = mapping(address(&memory)).unwrap();
    assert_eq!(access, "rw-p");
    let has = |flag| flags.split_whitespace().any(|name| name == flag);
    assert!(has("dd"), "{flags}");
    assert!(!has("dc"), "not copied by a fork: {flags}");
    let locked = has("lo");
    assert_eq!(host.facts(&memory).locked, locked);
}

/// The kernel refuses writes by code in the process. Deliberate writes past the protection
/// (`/proc/self/mem`) are left to the next check.
#[test]
fn protected_memory_refuses_writes_until_it_is_unprotected() {
    let host = Host::new();
    let mut memory = memory(&host, 8192);
    host.write(&mut memory, 0, b"weights").unwrap();
    host.protect(&mut memory).unwrap();
    assert!(host.facts(&memory).read_only);
    assert_eq!(mapping(address(&memory)).unwrap().0, "r--p");
    assert_eq!(
        host.write(&mut memory, 0, b"x"),
        Err(DeviceError::ReadOnly {})
    );
    // A system call that stores its answer in read-only memory.
    let zeros = fs::File::open("/dev/zero").unwrap();
    // SAFETY: the kernel writes to the page or refuses to; the page is not borrowed.
    let stored = unsafe { libc::read(zeros.as_raw_fd(), memory.address(), 1) };
    let error = std::io::Error::last_os_error();
    assert_eq!((stored, error.raw_os_error()), (-1, Some(libc::EFAULT)));
    assert_eq!(&host.view(&memory)[..7], b"weights");

    host.unprotect(&mut memory).unwrap();
    host.write(&mut memory, 0, b"W").unwrap();
    assert_eq!(&host.view(&memory)[..7], b"Weights");
}

#[test]
fn wiped_memory_is_zero_to_the_end_of_its_last_page_and_then_unmapped() {
    let _alone = no_other_forks();
    let host = Host::new();
    let len = 71_000;
    let mut memory = memory(&host, len as u64);
    host.write(&mut memory, 0, &vec![0xab; len]).unwrap();
    host.protect(&mut memory).unwrap();
    let address = address(&memory);
    assert_eq!(mapping(address).unwrap().0, "r--p");
    let page = rustix::param::page_size();
    let witnesses = [0, len / page * page].map(|at| Witness::of_page_at(address + at as u64));
    host.wipe(&mut memory).unwrap();
    for witness in witnesses {
        assert!(witness.read().iter().all(|byte| *byte == 0));
    }
    assert!(host.view(&memory).iter().all(|byte| *byte == 0));
    host.free(&mut memory).unwrap();
    assert!(!is_mapped(address, len as u64));
}

/// The kernel refuses to make the memory writable again: one page of it maps a file that was opened
/// read-only.
#[test]
fn memory_that_cannot_be_wiped_is_freed_all_the_same() {
    let host = Host::new();
    let page = rustix::param::page_size();
    let mut memory = memory(&host, 29 * page as u64);
    host.write(&mut memory, 0, &[0xab; 10]).unwrap();
    host.protect(&mut memory).unwrap();
    let file = fs::File::open("/proc/self/exe").unwrap();
    // SAFETY: the last page of the mapping is below its end.
    let last = unsafe { memory.base.as_ptr().add(28 * page) };
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: replaces one page of our own mapping, which is not borrowed, by another that is
    // readable, too.
    unsafe { rustix::mm::mmap(last.cast(), page, ProtFlags::READ, flags, &file, 0) }.unwrap();
    assert!(matches!(
        host.wipe(&mut memory),
        Err(DeviceError::Os {
            operation: "mprotect",
            ..
        })
    ));
    let address = address(&memory);
    assert!(is_mapped(address, 28 * page as u64), "all but the last");
    assert_eq!(host.free(&mut memory), Ok(()));
    assert!(!is_mapped(address, 28 * page as u64));
}

/// Wiping untouched memory would make the kernel provide a page for each address first.
#[test]
fn memory_that_was_to_be_filled_and_was_not_needs_no_wiping() {
    let host = Host::new();
    let mut memory = memory(&host, 3 << 20);
    drop(host.filler(&mut memory).unwrap());
    assert!(*memory.marks.wiped.get_mut());
    let filler = host.filler(&mut memory).unwrap();
    host.fill(&filler, 1 << 20, &[1]).unwrap();
    drop(filler);
    assert!(!*memory.marks.wiped.get_mut());
    assert_eq!(host.view(&memory)[1 << 20], 1);
}

#[test]
fn chunks_go_where_they_belong_and_nowhere_else() {
    let host = Host::new();
    let len = (2 << 20) + 10;
    let mut memory = memory(&host, len);
    let filler = host.filler(&mut memory).unwrap();
    let chunk = vec![5; CHUNK_BYTES];
    host.fill(&filler, 1 << 20, &chunk).unwrap();
    host.fill(&filler, 2 << 20, &chunk[..10]).unwrap();
    for (offset, bytes) in [
        (2 << 20, &chunk[..11]),
        ((1 << 20) + 1, &chunk[..]),
        (len, &chunk[..1]),
        (3 << 20, &chunk[..1]),
        (u64::MAX, &chunk[..]),
    ] {
        let refused = host.fill(&filler, offset, bytes);
        assert!(matches!(refused, Err(DeviceError::OutOfRange { .. })));
    }
    drop(filler);
    let (untouched, filled) = host.view(&memory).split_at(1 << 20);
    assert!(untouched.iter().all(|byte| *byte == 0));
    assert!(filled.iter().all(|byte| *byte == 5));
}

/// A living child keeps its copy. The parent's wipe does not affect the child, and does not copy
/// everything at once.
#[test]
fn memory_that_a_living_child_has_is_wiped_here_and_stays_there() {
    let _alone = no_other_forks();
    let host = Host::new();
    let len = 3 * PIECE_WORDS * 8 + 5000;
    let mut memory = memory(&host, len as u64);
    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    host.write(&mut memory, 0, &bytes).unwrap();
    host.protect(&mut memory).unwrap();
    assert!(!host.facts(&memory).inherited);
    let (mut told, tell) = std::io::pipe().unwrap();
    let (listen, go) = std::io::pipe().unwrap();
    // SAFETY: the child reads memory and calls nothing but `alarm`, `read`, `write` and `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let view = host.view(&memory);
        let mut byte = 0_u8;
        // SAFETY: sets a timer, whose signal ends this process; nothing handles it.
        unsafe { libc::alarm(60) };
        // SAFETY: stores one byte, when the parent has wiped.
        unsafe { libc::read(listen.as_raw_fd(), (&raw mut byte).cast(), 1) };
        byte = u8::from(view == bytes);
        // SAFETY: reads one byte.
        unsafe { libc::write(tell.as_raw_fd(), (&raw const byte).cast(), 1) };
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    assert!(host.facts(&memory).inherited);
    host.wipe(&mut memory).unwrap();
    assert!(host.view(&memory).iter().all(|byte| *byte == 0));
    std::io::Write::write_all(&mut &go, b"x").unwrap();
    let mut is_unchanged = [0];
    told.read_exact(&mut is_unchanged).unwrap();
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, ptr::null_mut(), 0) }, child);
    assert_eq!(is_unchanged, [1], "the child's bytes have changed");
}

#[test]
fn memory_that_is_dropped_is_wiped_and_unmapped_too() {
    let _alone = no_other_forks();
    let host = Host::new();
    let len = 101_000;
    let mut memory = memory(&host, len as u64);
    host.write(&mut memory, 0, &vec![0xab; len]).unwrap();
    host.protect(&mut memory).unwrap();
    let address = address(&memory);
    let witness = Witness::of_page_at(address);
    drop(memory);
    assert!(witness.read().iter().all(|byte| *byte == 0));
    assert!(!is_mapped(address, len as u64));
}

#[test]
fn a_view_and_a_digest_are_of_exactly_the_length() {
    let host = Host::new();
    let bytes: Vec<u8> = (0..5000u32).map(|index| index as u8).collect();
    let mut memory = memory(&host, 5000);
    host.write(&mut memory, 0, &bytes[..3000]).unwrap();
    host.write(&mut memory, 3000, &bytes[3000..]).unwrap();
    assert_eq!(host.view(&memory), bytes);
    let digest = host.digest(&memory, &mut go_on).unwrap().digest();
    assert_eq!(digest, Tree::of_slice(&bytes, go_on).unwrap().digest());
    assert_eq!(host.windows(&memory, 0..1).unwrap().len(), 1);
}

#[test]
fn what_is_outside_is_refused() {
    let host = Host::new();
    let mut memory = memory(&host, 5000);
    for (offset, len) in [(5000, 1), (4999, 2), (0, 5001), (u64::MAX, 1)] {
        let result = host.write(&mut memory, offset, &vec![1; len]);
        assert!(
            matches!(result, Err(DeviceError::OutOfRange { len: 5000, .. })),
            "{offset}: {result:?}"
        );
    }
    assert!(host.write(&mut memory, 5000, &[]).is_ok());
    for windows in [0..2, 1..2, 0..u64::MAX] {
        let result = host.windows(&memory, windows);
        assert!(matches!(result, Err(DeviceError::OutOfRange { .. })));
    }
    assert!(memory.flip_bit(5000, 0).is_err());
}

#[test]
fn no_bytes_and_too_many_bytes_are_errors() {
    let host = Host::new();
    let ask = |len| host.allocate(len, Permit::mint()).unwrap_err();
    assert_eq!(ask(0), DeviceError::Empty {});
    for len in [1 << 50, isize::MAX as u64, u64::MAX - 1, u64::MAX] {
        match ask(len) {
            DeviceError::OutOfMemory {
                needed,
                available,
                bound,
            } => {
                assert_eq!(needed, len);
                assert!(available < len);
                assert!(matches!(bound, Bound::MemAvailable | Bound::Cgroup));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flipped_bit_is_seen_through_memory_that_stays_read_only() {
    let host = Host::new();
    let len = 5000;
    let mut memory = memory(&host, len);
    host.protect(&mut memory).unwrap();
    for (offset, bit) in [(0, 0), (4095, 7), (4096, 3), (len - 1, 6)] {
        host.flip_bit(&memory, offset, bit).unwrap();
        let expected = 1 << bit;
        assert_eq!(host.view(&memory)[offset as usize], expected);
    }
    assert_eq!(mapping(address(&memory)).unwrap().0, "r--p");
    assert_eq!(
        host.view(&memory).iter().filter(|byte| **byte != 0).count(),
        4
    );
}

#[test]
fn debug_output_tells_no_address() {
    let host = Host::new();
    let memory = memory(&host, 1);
    let text = format!("{memory:?}");
    assert!(!text.contains("0x"));
    assert!(!text.contains(&format!("{:x}", address(&memory))));
    assert!(!text.contains(&address(&memory).to_string()));
}
