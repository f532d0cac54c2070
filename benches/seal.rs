//! The time to seal and verify 64 MiB and 512 MiB.
//!
//! The competitors are `sha2` on one thread, and command-line tools over the same bytes in the page
//! cache. Run `cargo bench --bench seal`. Each line is a median and the range of 11 ratios. The two
//! sides of a ratio are timed directly one after the other, in alternating order. So a change of
//! the machine's clock affects both. Above 1 the library is faster.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use vram_residency::digest::Digest;
use vram_residency::shard::{Allocated, Sealed};
use vram_residency::{
    AuditTrail, Host, ModelRef, Provenance, Shard, Stream, TrailKey, VramManager, WorkerToken,
};

const PAIRS: usize = 11;

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores, {PAIRS} pairs each: median [least .. most]");
    let directory = directory();
    let key = TrailKey::open_or_create(directory.path().join("key.pem")).expect("a key");
    let trail = AuditTrail::builder(
        "bench".parse().expect("a name"),
        directory.path().join("trail"),
        key,
    )
    .open_or_create()
    .expect("a trail");
    let token = WorkerToken::generate().expect("a token");
    let manager = VramManager::builder(Host::new(), &token, &trail)
        .build()
        .expect("a manager");
    for mib in [64, 512] {
        measure(&manager, directory.path(), mib);
    }
}

fn measure(manager: &VramManager<Host>, directory: &Path, mib: usize) {
    let bytes: Vec<u8> = (0..mib << 20).map(|index| (index % 251) as u8).collect();
    let file = directory.join("data");
    std::fs::write(&file, &bytes).expect("room for the data");
    let sha2 = || {
        black_box(Sha256::digest(&bytes));
    };

    // The sealed shard is wiped and freed before the next pair, outside of the measurement.
    let allocated: RefCell<Option<Shard<Allocated, Host>>> = RefCell::new(None);
    let sealed: RefCell<Option<Shard<Sealed, Host>>> = RefCell::new(None);
    compare(
        &format!("{mib} MiB, sha2 on one thread / seal"),
        || {
            drop(sealed.take());
            *allocated.borrow_mut() = Some(load(manager, &bytes));
        },
        sha2,
        || {
            let shard = allocated.take().expect("loaded before");
            let shard = shard.seal(Provenance::UnpinnedFirstUse).expect("sealed");
            *sealed.borrow_mut() = Some(shard);
        },
    );
    drop(sealed);
    let sealed = load(manager, &bytes).seal(Provenance::UnpinnedFirstUse);
    let shared = sealed.expect("sealed").verify().expect("verified").share();
    // `check` verifies without consuming the shard.
    let check = || shared.check().expect("unchanged");
    compare(
        &format!("{mib} MiB, sha2 on one thread / verify"),
        || {},
        sha2,
        check,
    );
    let tools: [(&str, &[&str]); 3] = [
        ("fsverity", &["digest"]),
        ("sha256sum", &[]),
        ("openssl", &["dgst", "-sha256"]),
    ];
    for (tool, arguments) in tools {
        if !run(tool, arguments, &file) {
            println!("{tool}: SKIPPED, not here or failing");
            continue;
        }
        let name = [&[tool], arguments].concat().join(" ");
        let tool = || assert!(run(tool, arguments, &file));
        compare(&format!("{mib} MiB, `{name}` / verify"), || {}, tool, check);
        compare(
            &format!("{mib} MiB, `{name}` / Digest::of_reader of the same file"),
            || {},
            tool,
            || {
                black_box(digest_of_file(&file));
            },
        );
    }
}

fn load(manager: &VramManager<Host>, bytes: &[u8]) -> Shard<Allocated, Host> {
    let model = ModelRef::new("bench", 0, 1).expect("a model");
    let name = "bench".parse().expect("a name");
    let mut shard = manager
        .allocate(name, model, bytes.len() as u64)
        .expect("room");
    shard.load_from(bytes, Stream::TreeOnly).expect("loaded");
    shard
}

/// Returns a directory in memory, where there is a file system for that.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for the data")
}

fn digest_of_file(path: &Path) -> Digest {
    let file = std::fs::File::open(path).expect("the file was written above");
    Digest::of_reader(file).expect("the file can be read")
}

fn run(tool: &str, arguments: &[&str], file: &Path) -> bool {
    Command::new(tool)
        .args(arguments)
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Times `two` against `one`. `prepare` runs before each pair and is not timed.
fn compare(what: &str, mut prepare: impl FnMut(), mut one: impl FnMut(), mut two: impl FnMut()) {
    prepare();
    one();
    two();
    let mut times = Vec::new();
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|pair| {
            prepare();
            let (slow, fast) = if pair % 2 == 0 {
                let slow = seconds(&mut one);
                (slow, seconds(&mut two))
            } else {
                let fast = seconds(&mut two);
                (seconds(&mut one), fast)
            };
            times.push(fast);
            slow / fast
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    times.sort_by(f64::total_cmp);
    println!(
        "{what}: {:.2} [{:.2} .. {:.2}], in {:.1} ms",
        ratios[PAIRS / 2],
        ratios[0],
        ratios[PAIRS - 1],
        times[PAIRS / 2] * 1000.0,
    );
}

fn seconds(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
