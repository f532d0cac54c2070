//! What reaches the log: losses at ERROR, once for each gap, and checkpoints for log collectors.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use support::{Place, filled, manager, of_event, segments};
use vram_residency::audit::PolicyViolation;
use vram_residency::audit::faults::{Step, StorageError};

/// What was logged by whatever thread of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: Mutex<Option<Log>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Begins with an empty log. The guard keeps other tests of this file waiting.
fn capture() -> (Log, MutexGuard<'static, ()>) {
    static INSTALLED: Once = Once::new();
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    INSTALLED.call_once(|| {
        let log = Log::default();
        *LOG.lock().unwrap() = Some(log.clone());
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .init();
    });
    let log = LOG.lock().unwrap().clone().unwrap();
    log.0.lock().unwrap().clear();
    (log, alone)
}

impl Log {
    fn lines(&self, containing: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter(|line| line.contains(containing))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn each_gap_is_logged_once() {
    let (log, _alone) = capture();
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open().unwrap();
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
}

#[test]
fn what_comes_after_closing_is_logged_once_and_counted() {
    let (log, _alone) = capture();
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let shard = filled(&manager, "outlives", 4096);
    trail.close().unwrap();
    assert!(log.lines("ERROR").is_empty());
    shard.release().unwrap();
    drop(manager);
    let lost = log.lines("records are lost from now on");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].contains("ERROR") && lost[0].contains("VramDeallocated"));
}

#[test]
fn a_recovered_tail_reaches_the_log_collector() {
    let (log, _alone) = capture();
    let place = Place::new();
    place.open().close().unwrap();
    let path = &segments(&place.dir())[0];
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
    log.0.lock().unwrap().clear();

    let trail = place.open();
    let checkpoint = trail.checkpoint().expect("known from the opening on");
    let announced = log.lines("vram_residency::checkpoint");
    assert_eq!(announced.len(), 1, "{announced:?}");
    let root = checkpoint.to_string().lines().nth(2).unwrap().to_owned();
    assert!(
        !log.lines(&root).is_empty(),
        "the log has no such root: {root}"
    );
    drop(trail);
}

#[test]
fn checkpoints_of_critical_records_and_of_closing_are_logged_whole() {
    let (log, _alone) = capture();
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
}
