//! The time to open and to check a trail whose anchor keeps a checkpoint for each minute of a year.
//!
//! These are 525 600 checkpoints, or the given number. Run `cargo bench --bench open`, or `cargo
//! bench --bench open -- 10000`. Each checkpoint covers one record more than the checkpoint before.
//! The anchor is a `SameHostCopy`; a network would add to the time. The difference between opening
//! with and without an anchor is the cost of the comparison. The peak of memory is measured in a
//! process that does only this.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vram_residency::audit::{self, Checkpoint, Outcome, SameHostCopy, VerifierKey};
use vram_residency::{AuditTrail, TrailKey};

/// One checkpoint a minute, for a year.
const CHECKPOINTS: u64 = 365 * 24 * 60;

const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [command, place] if command == "open" => return open(Path::new(place), true),
        [command, place, key] if command == "verify" => {
            return verify(Path::new(place), &key.parse().expect("a verifier key"));
        }
        _ => {}
    }
    let number = arguments.iter().find_map(|argument| argument.parse().ok());
    let number = number.unwrap_or(CHECKPOINTS);
    let directory = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for the trail");
    let place = directory.path();
    let key = write(place, number);
    let (trail, kept) = (bytes(&place.join("trail")), bytes(&place.join("kept")));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{cores} cores, {number} checkpoints, trail {trail} bytes, anchor's file {kept} bytes"
    );
    let time = |what: &str, work: &dyn Fn()| {
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{what}: {:.2} s [{:.2} .. {:.2}]",
            times[ROUNDS / 2],
            times[0],
            times[ROUNDS - 1]
        );
    };
    time("opening without an anchor", &|| open(place, false));
    time("opening with the anchor", &|| open(place, true));
    time("check with all checkpoints, parsing them", &|| {
        verify(place, &key)
    });
    println!(
        "peak of memory, opening: {} KiB",
        peak(&["open".as_ref(), place.as_os_str()])
    );
    let key = key.to_string();
    let arguments = ["verify".as_ref(), place.as_os_str(), key.as_ref()];
    println!("peak of memory, check: {} KiB", peak(&arguments));
}

fn builder(place: &Path) -> audit::AuditTrailBuilder {
    let key = TrailKey::open_or_create(place.join("key.pem")).expect("a key");
    AuditTrail::builder("bench".parse().expect("a name"), place.join("trail"), key)
        .critical_deadline(Duration::from_secs(3600))
}

/// Writes the trail, and the checkpoints that the anchor keeps.
fn write(place: &Path, number: u64) -> VerifierKey {
    let trail = builder(place).create().expect("a trail");
    let key = trail.verifier_key().clone();
    for _ in 0..number {
        trail
            .note("one record a minute, of an ordinary length")
            .expect("room");
        trail.flush().expect("durable");
    }
    trail.close().expect("closed");
    let kept = std::fs::File::create(place.join("kept")).expect("the anchor's file");
    let mut kept = BufWriter::new(kept);
    for line in segments(&place.join("trail")).iter().flat_map(lines) {
        if line.starts_with("{\"checkpoint\"") {
            writeln!(kept, "{line}").expect("room");
        }
    }
    kept.flush().expect("room");
    key
}

fn open(place: &Path, anchored: bool) {
    let builder = builder(place);
    let builder = match anchored {
        true => builder.anchor(SameHostCopy::new(place.join("kept"))),
        false => builder,
    };
    // Closed immediately, and without the records that this adds: each opening finds the same
    // trail.
    let trail = builder.open().expect("an honest trail");
    trail.close().expect("closed");
    report_peak();
}

fn verify(place: &Path, key: &VerifierKey) {
    let checkpoint = |line: String| -> Checkpoint {
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        line["checkpoint"]
            .as_str()
            .expect("a text")
            .parse()
            .expect("a checkpoint")
    };
    let anchors: Vec<Checkpoint> = lines(&place.join("kept")).map(checkpoint).collect();
    let report = audit::verify(place.join("trail"), std::slice::from_ref(key), &anchors);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    report_peak();
}

fn lines(path: &PathBuf) -> impl Iterator<Item = String> {
    let file = std::fs::File::open(path).expect("a file");
    BufReader::new(file)
        .lines()
        .map(|line| line.expect("a line"))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the trail");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    paths.sort();
    paths
}

fn bytes(path: &Path) -> u64 {
    let paths = if path.is_dir() {
        segments(path)
    } else {
        vec![path.to_owned()]
    };
    let length = |path: &PathBuf| path.metadata().expect("a file").len();
    paths.iter().map(length).sum()
}

/// Reports the peak of memory, in the process that this program starts for it.
fn report_peak() {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    if std::env::args()
        .nth(1)
        .is_some_and(|command| command == "open" || command == "verify")
    {
        println!(
            "{}",
            line.expect("the peak of memory")
                .trim()
                .trim_end_matches(" kB")
        );
    }
}

fn peak(arguments: &[&std::ffi::OsStr]) -> u64 {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(arguments)
        .output()
        .expect("this program again");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().expect("a number of KiB")
}
