//! A worker in a process of its own that records until it is killed and tells every receipt that it
//! was given; and whoever listens, and looks on the disk for what was told. It does not know how
//! the worker or its disk comes to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vram_residency::audit::{self, AnchorState, Checkpoint, Outcome, Receipt, Report, VerifierKey};

use crate::support::{
    Random, VIOLATION, acknowledged, builder_at, child_command, records_in, segments,
};

const THREADS: usize = 4;

/// Few batches, so that a worker's end often meets the beginning of a segment.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Between two critical records, so that a batch is not written at one stroke.
const NOTES: usize = 16;

/// In the child: opens the trail at `place`; several threads record until the process ends.
pub fn record_for_ever(place: &Path) -> ! {
    // The harness has begun a line.
    println!("\nup");
    let trail = builder_at(place)
        .segment_bytes(SEGMENT_BYTES)
        .open_or_create()
        .unwrap();
    println!("key {}", trail.verifier_key());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    for _ in 0..NOTES {
                        let _number = trail.note("x".repeat(1000));
                    }
                    if let Ok(receipt) = trail.policy_violation(VIOLATION) {
                        tell(&receipt);
                    }
                }
            });
        }
    });
    unreachable!("the threads record for ever");
}

/// In the child: one line, at once.
pub fn tell(receipt: &Receipt) {
    let checkpoint = serde_json::to_string(&receipt.checkpoint().to_string()).unwrap();
    let at = now().as_nanos();
    let line = format!("receipt {} {at} {checkpoint}\n", receipt.seq());
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// A worker that runs.
pub struct Worker {
    process: Child,
    listener: JoinHandle<Told>,
}

impl Worker {
    /// Starts `test` of this binary as a worker, and waits for a random moment: one in four while it
    /// opens its trail, the others while it records.
    pub fn until_a_moment(test: &str, place: &Path, random: &mut Random) -> Self {
        let (line, patience) = match random.below(4) {
            0 => ("up", 20_000),
            _ => ("receipt", 60_000),
        };
        let worker = Self::start(test, place, line);
        std::thread::sleep(Duration::from_micros(random.below(patience)));
        worker
    }

    /// Starts it, and waits until it tells a line that begins like this.
    fn start(test: &str, place: &Path, awaited: &'static str) -> Self {
        let mut process = child_command(test, place)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let (seen, is_seen) = mpsc::channel();
        let listener = std::thread::spawn(move || {
            let mut told = Told::default();
            let mut line = String::new();
            // A line without an end is one that nobody was told.
            while lines.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                if line.starts_with(awaited) {
                    // Once is enough: then nobody waits any more.
                    let _waited = seen.send(());
                }
                told.hear(line.trim_end());
                line.clear();
            }
            told
        });
        is_seen.recv().unwrap();
        drop(is_seen);
        Self { process, listener }
    }

    /// Kills it. What it has told until then is all that counts.
    pub fn kill(mut self) -> Told {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.listener.join().unwrap()
    }
}

/// The time of a clock that all processes share.
pub fn now() -> Duration {
    clock_gettime(ClockId::Monotonic).try_into().unwrap()
}

/// What workers have told about one trail.
#[derive(Clone, Default)]
pub struct Told {
    pub key: Option<VerifierKey>,
    /// By the record's number: when it was told, and the checkpoint that covers it.
    pub receipts: BTreeMap<u64, (Duration, Checkpoint)>,
}

impl Told {
    pub fn hear(&mut self, line: &str) {
        if let Some(key) = line.strip_prefix("key ") {
            self.key = Some(key.parse().unwrap());
        } else if let Some(receipt) = line.strip_prefix("receipt ") {
            let mut parts = receipt.splitn(3, ' ');
            let mut part = || parts.next().unwrap();
            let (seq, at) = (part().parse().unwrap(), part().parse().unwrap());
            let checkpoint: String = serde_json::from_str(part()).unwrap();
            let receipt = (Duration::from_nanos(at), checkpoint.parse().unwrap());
            assert!(self.receipts.insert(seq, receipt).is_none(), "{line}");
        }
    }

    /// A receipt of this process.
    pub fn receive(&mut self, receipt: &Receipt) {
        let told = (now(), receipt.checkpoint().clone());
        self.receipts.insert(receipt.seq().value(), told);
    }

    /// What a later worker has told about the same trail.
    pub fn and(&mut self, later: Self) {
        if let (Some(key), Some(known)) = (&later.key, &self.key) {
            assert_eq!(key, known, "another trail");
        }
        self.key = self.key.take().or(later.key);
        self.receipts.extend(later.receipts);
    }

    /// The newest checkpoint that was told, as an anchor.
    fn anchor(&self) -> Option<Checkpoint> {
        let checkpoints = self.receipts.values().map(|(_, checkpoint)| checkpoint);
        checkpoints
            .max_by_key(|checkpoint| checkpoint.size())
            .cloned()
    }

    /// The trail holds, agrees with the newest checkpoint that was told, and has every record whose
    /// receipt was told. None if there is no trail, and nothing was told of one.
    pub fn expect_kept(&self, dir: &Path) -> Option<Report> {
        let any = dir.is_dir() && !segments(dir).is_empty();
        if !any && self.key.is_none() {
            return None;
        }
        assert!(any, "the trail is gone");
        let key = self.key.clone().unwrap_or_else(|| named_key(dir));
        let anchors = Vec::from_iter(self.anchor());
        let report = audit::verify(dir, &[key], &anchors);
        assert_eq!(report.outcome, Outcome::Holds, "{report}");
        for anchor in &report.anchors {
            assert_eq!(anchor.state, AnchorState::Confirmed, "{report}");
        }
        let kept: BTreeSet<u64> = acknowledged(dir, report.leaves)
            .iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .collect();
        let told = self.receipts.keys();
        let lost: Vec<&u64> = told.filter(|seq| !kept.contains(seq)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}\n{report}");
        Some(report)
    }

    /// The next run goes on in the trail and closes it, and then nothing is missing, either.
    pub fn expect_continued(&mut self, place: &Path) {
        let dir = place.join("trail");
        let trail = builder_at(place).open_or_create().unwrap();
        self.key.get_or_insert_with(|| trail.verifier_key().clone());
        self.receive(&trail.policy_violation(VIOLATION).unwrap());
        self.receive(&trail.close().unwrap());
        let report = self.expect_kept(&dir).unwrap();
        assert!(report.closed && report.end_vouched_for, "{report}");
    }
}

/// The key that the trail names: that of a worker killed before it could tell.
fn named_key(dir: &Path) -> VerifierKey {
    let first = &records_in(&segments(dir)[0])[0];
    first["key"].as_str().unwrap().parse().unwrap()
}
