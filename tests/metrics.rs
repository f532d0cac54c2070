//! The three counters, as an exporter sees them: there at zero from the start, whether the exporter
//! came before the trail or after it, and after that exactly what the definitions say.
//!
//! A recorder is installed once in a process, so each order has a process of its own.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use support::{alone, manager, sealed};
use vram_residency::AuditTrail;
use vram_residency::audit::PolicyViolation;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};

const ATTEMPTS: &str = "vram.audit.emit_attempts";
const FAILURES: &str = "vram.audit.emit_failures";
const CRITICAL: &str = "vram.audit.critical_emit_failures";

fn install() -> Snapshotter {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    snapshotter
}

/// What has been published: name, labels, value.
fn published(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let labels: Vec<(&str, &str)> = key.labels().map(|l| (l.key(), l.value())).collect();
        assert_eq!(labels, [("worker", "worker-1")]);
        let DebugValue::Counter(value) = value else {
            panic!("{} is no counter", key.name());
        };
        values.insert(key.name().to_owned(), value);
    }
    values
}

/// A snapshot empties the recorder's counters, and the writer publishes absolute values; so what is
/// seen is compared until a tick has come.
#[track_caller]
fn expect(snapshotter: &Snapshotter, attempts: u64, failures: u64, critical: u64) {
    let expected: BTreeMap<String, u64> = [
        (ATTEMPTS, attempts),
        (FAILURES, failures),
        (CRITICAL, critical),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let seen = published(snapshotter);
        if seen == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn open(place: &Path, faults: &StorageFaults) -> AuditTrail {
    support::builder_at(place)
        .queue_records(16)
        .dangerous_storage_faults(faults.clone())
        .open()
        .unwrap()
}

/// Attempts: each record from outside, taken or not. Failures: those that are lost. Critical
/// failures: those whose caller was told that they are not durable, also if they are written later.
fn follow(trail: AuditTrail, faults: &StorageFaults, snapshotter: &Snapshotter) {
    let violation = PolicyViolation {
        policy: "p",
        violation: "v",
        details: "d",
        action: "a",
    };
    trail.note("one").unwrap();
    trail.policy_violation(violation).unwrap();
    let shard = sealed(&manager(&trail), "a", 100); // VramAllocated, VramSealed
    let shard = shard.verify().unwrap(); // SealVerified
    expect(snapshotter, 5, 0, 0);

    for step in [Step::Write, Step::Create] {
        faults.fail(step, StorageError::NoSpace, u32::MAX);
    }
    trail.policy_violation(violation).unwrap_err();
    expect(snapshotter, 6, 0, 1);
    let lost = (0..50)
        .filter(|i| trail.note(format!("{i}")).is_err())
        .count() as u64;
    assert!(lost >= 30, "{lost}");
    expect(snapshotter, 56, lost, 1);
    drop(shard); // VramDeallocated finds no room either
    expect(snapshotter, 57, lost + 1, 1);

    // The trail's own records (SegmentOpened, SegmentPoisoned, RecordsLost) are no attempts.
    faults.heal();
    trail.policy_violation(violation).unwrap();
    expect(snapshotter, 58, lost + 1, 1);
    let counts = trail.counts();
    let counts = (counts.attempts, counts.failures, counts.critical_failures);
    assert_eq!(counts, (58, lost + 1, 1));
    let held = sealed(&manager(&trail), "held", 100);
    trail.close().unwrap();
    drop(held); // refused: the trail is closed, and so nobody but the caller can publish it
    expect(snapshotter, 61, lost + 2, 1);
}

#[test]
fn counters_are_there_at_zero_when_the_exporter_came_first() {
    alone(
        "counters_are_there_at_zero_when_the_exporter_came_first",
        |place| {
            let snapshotter = install();
            let faults = StorageFaults::dangerous_new();
            let trail = open(place, &faults);
            expect(&snapshotter, 0, 0, 0);
            follow(trail, &faults, &snapshotter);
        },
    );
}

#[test]
fn counters_are_there_when_the_exporter_came_later() {
    alone("counters_are_there_when_the_exporter_came_later", |place| {
        let faults = StorageFaults::dangerous_new();
        let trail = open(place, &faults);
        std::thread::sleep(Duration::from_millis(200));
        let snapshotter = install();
        expect(&snapshotter, 0, 0, 0);
        follow(trail, &faults, &snapshotter);
    });
}
