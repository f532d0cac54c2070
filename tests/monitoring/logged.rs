//! What reaches the log: losses at ERROR, once for each gap, and checkpoints for log collectors.
//!
//! A process has one log, so each test runs in a process of its own.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{self, Place, alone, filled, manager, of_event, segments};
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{Anchor, AnchorError, Checkpoint, PolicyViolation};

/// What was logged by whatever thread of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// For a process, from now on.
    fn install() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn lines(&self, containing: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter(|line| line.contains(containing))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a line that a thread of its own logs.
    #[track_caller]
    fn wait_for(&self, containing: &str) -> Vec<String> {
        let started = Instant::now();
        loop {
            let lines = self.lines(containing);
            if !lines.is_empty() {
                return lines;
            }
            assert!(started.elapsed().as_secs() < 60, "never: {containing}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn each_gap_is_logged_once() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        let (builder, faults) = place.faulty();
        // With so short a deadline, the writer never leaves its disk alone for longer than 100 ms.
        let trail = builder
            .queue_records(16)
            .critical_deadline(Duration::from_millis(400))
            .open_or_create()
            .unwrap();
        // Many bursts while the writer is at work: gaps arise at every point of its round.
        for burst in 0..200 {
            for i in 0..64 {
                let _lost_or_not = trail.note(format!("{burst}/{i}"));
            }
            if burst == 100 {
                faults.fail(Step::Write, StorageError::NoSpace, 20);
                faults.fail(Step::Create, StorageError::NoSpace, 20);
            }
            trail.flush().ok();
        }
        trail.close().unwrap();
        let gaps = of_event(&place.records(), "RecordsLost");
        assert!(gaps.len() > 50, "only {} gaps", gaps.len());
        let logged = log.lines("records are lost");
        let mut firsts: Vec<u64> = logged
            .iter()
            .map(|line| {
                let after = line.split("first=").nth(1).unwrap();
                after.split(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        assert!(logged.iter().all(|line| line.contains("ERROR")));
        firsts.dedup();
        let recorded: Vec<u64> = gaps
            .iter()
            .map(|gap| gap["first"].as_u64().unwrap())
            .collect();
        assert_eq!(firsts, recorded);
        assert_eq!(logged.len(), recorded.len(), "a gap was logged twice");
    });
}

#[test]
fn what_comes_after_closing_is_logged_once_and_counted() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        let trail = place.open();
        let manager = manager(&trail);
        let shard = filled(&manager, "outlives", 4096);
        trail.close().unwrap();
        assert!(log.lines("ERROR").is_empty());
        shard.release().unwrap();
        drop(manager);
        let lost = log.wait_for("records are lost from now on");
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(lost[0].contains("ERROR") && lost[0].contains("VramDeallocated"));
    });
}

#[test]
fn a_recovered_tail_reaches_the_log_collector() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        place.open().close().unwrap();
        let path = &segments(&place.dir())[0];
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
        log.0.lock().unwrap().clear();

        let trail = place.open();
        let checkpoint = trail.checkpoint().expect("known from the opening on");
        let announced = log.wait_for("vram_residency::checkpoint");
        assert_eq!(announced.len(), 1, "{announced:?}");
        let root = checkpoint.to_string().lines().nth(2).unwrap().to_owned();
        assert!(
            !log.lines(&root).is_empty(),
            "the log has no such root: {root}"
        );
        drop(trail);
    });
}

#[test]
fn checkpoints_of_critical_records_and_of_closing_are_logged_whole() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        let trail = place.open();
        trail.note("ordinary").unwrap();
        trail.flush().unwrap();
        assert!(log.lines("vram_residency::checkpoint").is_empty());
        let receipt = trail
            .policy_violation(PolicyViolation {
                policy: "p",
                violation: "v",
                details: "d",
                action: "a",
            })
            .unwrap();
        // The newest wins: if the end came at once, it would be the only one.
        log.wait_for("vram_residency::checkpoint");
        let last = trail.close().unwrap();
        assert_eq!(log.lines("vram_residency::checkpoint").len(), 2);
        for checkpoint in [receipt.checkpoint(), last.checkpoint()] {
            for line in checkpoint
                .to_string()
                .lines()
                .filter(|line| !line.is_empty())
            {
                assert!(!log.lines(line).is_empty(), "not in the log: {line}");
            }
        }
    });
}

/// Keeps nothing.
struct Unplugged;

impl Anchor for Unplugged {
    fn name(&self) -> &str {
        "unplugged"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        Err(AnchorError::Other("no current".into()))
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

#[test]
fn an_outage_of_an_anchor_is_logged_once_and_an_end_that_is_not_anchored_too() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        let trail = place.builder().anchor(Unplugged).open_or_create().unwrap();
        log.wait_for("an anchor fails");
        for _ in 0..3 {
            trail.policy_violation(support::VIOLATION).unwrap();
        }
        trail.close().unwrap();
        let outage = log.lines("an anchor fails");
        assert_eq!(outage.len(), 1, "{outage:?}");
        let end = log.lines("last checkpoint is not anchored");
        assert_eq!(end.len(), 1, "{end:?}");
        for line in [&outage[0], &end[0]] {
            let told = ["ERROR", "anchor=unplugged", "cause=no current"];
            assert!(told.iter().all(|part| line.contains(part)), "{line}");
        }
    });
}

#[test]
fn a_trail_that_is_dropped_while_unwinding_on_a_full_disk_says_what_is_lost() {
    alone(|_| {
        let log = Log::install();
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder
            .critical_deadline(Duration::from_millis(200))
            .open_or_create()
            .unwrap();
        let manager = manager(&trail);
        faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
        faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
        for _ in 0..3 {
            trail.note("lost").unwrap();
        }
        let started = Instant::now();
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(move || {
            // Dropped last: what it says is the end of the story.
            let _manager = manager;
            let _trail = trail;
            panic!("on purpose");
        }));
        let what = panicked.unwrap_err();
        assert_eq!(
            what.downcast_ref(),
            Some(&"on purpose"),
            "not another panic"
        );
        assert!(started.elapsed() < Duration::from_secs(2));
        for said in [
            "these records are lost records=3",
            "was dropped and did not close well",
            "a manager was dropped, and its last records are not durable",
        ] {
            let lines = log.lines(said);
            assert!(
                lines.len() == 1 && lines[0].contains("ERROR"),
                "{said}: {lines:?}"
            );
        }
    });
}
