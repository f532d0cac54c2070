//! The time to check a trail of 1 000 000 records, against `openssl dgst -sha256` over the same
//! files.
//!
//! Run `cargo bench --bench verify`. The records are `SealVerified` of a real shard, about 400
//! bytes each, in batches as the writer makes them at full speed. The ratio is a median and the
//! range of 11. Its two sides are timed directly one after the other, in alternating order. The
//! peak of memory is measured in a process that does only the check.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use vram_residency::audit::{self, Outcome, VerifierKey};
use vram_residency::{
    AuditTrail, Host, ModelRef, Provenance, Stream, TrailKey, VramManager, WorkerToken,
};

const PAIRS: usize = 11;

const RECORDS: u32 = 1_000_000;

/// The maximum number of records that the writer puts before one checkpoint.
const BATCH: u32 = 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, dir, key] = arguments.as_slice()
        && command == "check"
    {
        check(Path::new(dir), &key.parse().expect("a verifier key"));
        println!("{}", peak_kib());
        return;
    }
    let directory = directory();
    let (dir, key) = write(directory.path());
    let segments = segments(&dir);
    let bytes: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
    let records = check(&dir, &key);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{cores} cores, {records} records, {bytes} bytes, {} segments",
        segments.len()
    );
    let openssl = || {
        Command::new("openssl")
            .args(["dgst", "-sha256"])
            .args(segments.iter().map(|(path, _)| path))
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let has_openssl = openssl();
    if !has_openssl {
        println!("openssl: SKIPPED, not here or failing");
    }
    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let mut theirs = 0.0;
        if pair % 2 == 0 {
            theirs = seconds(openssl);
        }
        let time = seconds(|| check(&dir, &key));
        if pair % 2 != 0 {
            theirs = seconds(openssl);
        }
        ours.push(records as f64 / time / 1e6);
        ratios.push(theirs / time);
    }
    report("million records per second", &mut ours);
    if has_openssl {
        report("speed against `openssl dgst -sha256`", &mut ratios);
    }
    println!("peak of memory: {:.1} MiB", peak_of_child(&dir, &key));
}

/// Writes the trail, and returns its directory and its key.
fn write(directory: &Path) -> (PathBuf, VerifierKey) {
    let dir = directory.join("trail");
    let key = TrailKey::open_or_create(directory.join("key.pem")).expect("a key");
    let trail = AuditTrail::builder("bench".parse().expect("a name"), &dir, key)
        .open_or_create()
        .expect("a trail");
    let verifier = trail.verifier_key().clone();
    let token = WorkerToken::generate().expect("a token");
    let manager = VramManager::builder(Host::new(), &token, &trail)
        .build()
        .expect("a manager");
    let name = "model-00001-of-00002".parse().expect("a name");
    let model = ModelRef::new("bench", 0, 1).expect("a model");
    let mut shard = manager.allocate(name, model, 1).expect("room");
    shard.load_from(&[1][..], Stream::TreeOnly).expect("loaded");
    let sealed = shard.seal(Provenance::UnpinnedFirstUse).expect("sealed");
    let shared = sealed.verify().expect("verified").share();
    for number in 1..=RECORDS {
        shared.check().expect("unchanged");
        if number % BATCH == 0 {
            trail.flush().expect("durable");
        }
    }
    drop((shared, manager));
    trail.close().expect("closed");
    (dir, verifier)
}

/// Checks the trail and returns the number of its records.
fn check(dir: &Path, key: &VerifierKey) -> u64 {
    let report = audit::verify(dir, std::slice::from_ref(key), &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.records > u64::from(RECORDS));
    report.records
}

/// Returns the segments and their lengths.
fn segments(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut segments: Vec<_> = std::fs::read_dir(dir)
        .expect("the trail")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .map(|path| {
            let bytes = path.metadata().expect("a segment").len();
            (path, bytes)
        })
        .collect();
    segments.sort();
    segments
}

/// Returns a directory in memory, where there is a file system for that.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for the trail")
}

fn peak_of_child(dir: &Path, key: &VerifierKey) -> f64 {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .arg("check")
        .args([dir.as_os_str(), key.to_string().as_ref()])
        .output()
        .expect("this program again");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse::<f64>().expect("a number of KiB") / 1024.0
}

/// Returns the peak of this process's memory, as counted by the kernel.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.expect("the peak of memory").trim();
    line.trim_end_matches(" kB").parse().expect("a number")
}

fn report(what: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    println!(
        "{what}: {:.2} [{:.2} .. {:.2}]",
        samples[samples.len() / 2],
        samples[0],
        samples[samples.len() - 1],
    );
}

fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_secs_f64()
}
