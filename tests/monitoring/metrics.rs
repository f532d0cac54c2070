//! The metrics, as a real exporter shows them: all there from the start, whether the exporter came
//! before the trail or after it, and after that exactly what the definitions say.
//!
//! A recorder is installed once in a process, so each order has a process of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{self, alone, filled, manager, sealed};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{PolicyViolation, SameHostCopy};
use vram_residency::{AuditTrail, Provenance};

fn install() -> PrometheusHandle {
    PrometheusBuilder::new().install_recorder().unwrap()
}

/// What the exporter shows, without the prefix that all names have.
fn shown(exporter: &PrometheusHandle) -> BTreeMap<String, f64> {
    let text = exporter.render();
    let series = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    series
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.strip_suffix(r#"{worker="worker-1"}"#).unwrap();
            let name = name.strip_prefix("vram_audit_").unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// The counters, in this order: attempts, failures, critical failures, failed verifications.
#[track_caller]
fn expect(exporter: &PrometheusHandle, counters: [u64; 4]) {
    expect_of(exporter, counters, counters[1] * 100 > counters[0]);
}

#[track_caller]
fn expect_of(exporter: &PrometheusHandle, counters: [u64; 4], degraded: bool) {
    let names = [
        "emit_attempts",
        "emit_failures",
        "critical_emit_failures",
        "verification_failures",
    ];
    let mut expected: BTreeMap<String, f64> = names
        .into_iter()
        .zip(counters)
        .map(|(name, count)| (name.to_owned(), count as f64))
        .collect();
    expected.insert("degraded".into(), f64::from(u8::from(degraded)));
    expected.insert("unanchored_seconds".into(), 0.0);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut seen = shown(exporter);
        // It has a value of its own each time; see below.
        let heartbeat = seen.remove("heartbeat");
        // What waits is written within a second: only where nothing was given, nothing ever waits.
        let waiting = ["queue_depth", "oldest_not_durable_seconds"].map(|name| seen.remove(name));
        let waits =
            |value: &Option<f64>| value.is_some_and(|value| value == 0.0 || counters[0] > 0);
        let last = ["critical_emit", "verification"]
            .map(|what| seen.remove(&format!("last_{what}_failure")));
        if seen == expected && heartbeat.is_some() && waiting.iter().all(waits) {
            let failures = [counters[2], counters[3]];
            for (last, failures) in last.into_iter().zip(failures) {
                assert_when(last, failures);
            }
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// The last failure was within a minute if there has been one, and at 0 if not.
#[track_caller]
fn assert_when(last: Option<f64>, failures: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs_f64();
    let expected = if failures == 0 {
        0.0..=0.0
    } else {
        now - 60.0..=now
    };
    assert!(
        last.is_some_and(|last| expected.contains(&last)),
        "{last:?}, and {failures} failures"
    );
}

fn open(place: &Path, faults: &StorageFaults) -> AuditTrail {
    support::builder_at(place)
        .queue_records(16)
        .dangerous_storage_faults(faults.clone())
        .open_or_create()
        .unwrap()
}

/// Attempts: each record from outside, taken or not. Failures: those that are lost. Critical
/// failures: those whose caller was told that they are not durable, also if they are written later.
fn follow(trail: AuditTrail, faults: &StorageFaults, exporter: &PrometheusHandle) {
    let violation = PolicyViolation {
        policy: "p",
        violation: "v",
        details: "d",
        action: "a",
    };
    trail.note("one").unwrap();
    trail.policy_violation(violation).unwrap();
    let manager = manager(&trail);
    let shard = sealed(&manager, "a", 100); // VramAllocated, VramSealed
    let shard = shard.verify().unwrap(); // SealVerified
    expect(exporter, [5, 0, 0, 0]);
    let broken = sealed(&manager, "b", 100);
    broken.dangerous_flip_bit(7, 0).unwrap();
    drop(broken.verify().unwrap_err()); // SealVerificationFailed, VramDeallocated
    expect(exporter, [9, 0, 0, 1]);
    let wrong = Provenance::FsVerity("0".repeat(64).parse().unwrap());
    drop(filled(&manager, "c", 100).seal(wrong).unwrap_err()); // the same, and VramAllocated
    expect(exporter, [12, 0, 0, 2]);

    for step in [Step::Write, Step::Create] {
        faults.fail(step, StorageError::NoSpace, u32::MAX);
    }
    trail.policy_violation(violation).unwrap_err();
    expect(exporter, [13, 0, 1, 2]);
    let lost = (0..50)
        .filter(|i| trail.note(format!("{i}")).is_err())
        .count() as u64;
    assert!(lost >= 30, "{lost}");
    expect(exporter, [63, lost, 1, 2]);
    drop(shard); // VramDeallocated finds no room either
    expect(exporter, [64, lost + 1, 1, 2]);

    // The trail's own records (SegmentOpened, SegmentPoisoned, RecordsLost) are no attempts.
    faults.heal();
    trail.policy_violation(violation).unwrap();
    expect(exporter, [65, lost + 1, 1, 2]);
    let counts = trail.counts();
    let told = (counts.attempts, counts.failures, counts.critical_failures);
    assert_eq!(told, (65, lost + 1, 1));
    assert_eq!(counts.verification_failures, 2);
    let held = sealed(&manager, "held", 100);
    held.dangerous_flip_bit(7, 0).unwrap();
    trail.close().unwrap();
    // Refused, since the trail is closed, and so nobody but the caller can publish it:
    drop(held.verify().unwrap_err()); // SealVerificationFailed, VramDeallocated
    expect_of(exporter, [69, lost + 3, 2, 3], false); // closed
}

#[test]
fn everything_is_there_at_zero_when_the_exporter_came_first() {
    alone(|place| {
        let exporter = install();
        let faults = StorageFaults::dangerous_new();
        let trail = open(place, &faults);
        expect(&exporter, [0, 0, 0, 0]);
        follow(trail, &faults, &exporter);
    });
}

#[test]
fn everything_is_there_when_the_exporter_came_later() {
    alone(|place| {
        let faults = StorageFaults::dangerous_new();
        let trail = open(place, &faults);
        std::thread::sleep(Duration::from_millis(200));
        let exporter = install();
        expect(&exporter, [0, 0, 0, 0]);
        follow(trail, &faults, &exporter);
    });
}

#[test]
fn a_trail_that_is_closed_is_neither_degraded_nor_ahead_of_an_anchor_that_works() {
    alone(|place| {
        let exporter = install();
        let faults = StorageFaults::dangerous_new();
        let trail = support::builder_at(place)
            .queue_records(16)
            .anchor(SameHostCopy::new(place.join("anchor")))
            .anchor_every(Duration::from_secs(3600))
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        faults.hang();
        let lost = (0..50).filter(|i| trail.note(format!("{i}")).is_err());
        assert!(lost.count() >= 30);
        faults.heal();
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_set = |name| shown(&exporter).get(name).is_some_and(|value| *value > 0.0);
        while !is_set("degraded") || !is_set("unanchored_seconds") {
            assert!(Instant::now() < deadline, "{:?}", shown(&exporter));
            std::thread::sleep(Duration::from_millis(10));
            // The anchor gets whatever is there with the record of the degradation: this is not.
            let _no_room_at_first = trail.note("afterwards");
        }
        trail.close().unwrap();
        let closed = shown(&exporter);
        assert_eq!(closed["degraded"], 0.0);
        assert_eq!(closed["unanchored_seconds"], 0.0);
        assert_eq!(closed["queue_depth"], 0.0);
        assert_eq!(closed["oldest_not_durable_seconds"], 0.0);
    });
}

#[test]
fn what_waits_for_the_disk_is_shown_until_it_is_durable() {
    alone(|place| {
        let exporter = install();
        let faults = StorageFaults::dangerous_new();
        let trail = open(place, &faults);
        expect(&exporter, [0, 0, 0, 0]);
        faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
        faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
        let made = Instant::now();
        for _ in 0..5 {
            trail.note("waits").unwrap();
        }
        let until = |done: &dyn Fn(f64, f64) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let seen = shown(&exporter);
                let (depth, age) = (seen["queue_depth"], seen["oldest_not_durable_seconds"]);
                // The age is never more than what has passed.
                assert!(age <= made.elapsed().as_secs_f64(), "{age}");
                if done(depth, age) {
                    return;
                }
                assert!(Instant::now() < deadline, "{seen:?}");
                std::thread::sleep(Duration::from_millis(30));
            }
        };
        // The trail's own record of the failure waits, too.
        until(&|depth, age| depth >= 5.0 && age > 1.0);
        let counts = trail.counts();
        assert_eq!((counts.failures, counts.critical_failures), (0, 0));
        let backlog = trail.backlog();
        assert!(backlog.records >= 5 && backlog.oldest > Duration::from_secs(1));
        faults.heal();
        until(&|depth, age| depth == 0.0 && age == 0.0);
        assert_eq!(trail.backlog(), vram_residency::health::Backlog::default());
        trail.close().unwrap();
    });
}

#[test]
fn the_heartbeat_is_the_time_and_stands_still_when_the_writer_hangs_or_has_ended() {
    alone(|place| {
        let exporter = install();
        let faults = StorageFaults::dangerous_new();
        let trail = open(place, &faults);
        expect(&exporter, [0, 0, 0, 0]);
        let heartbeat = || shown(&exporter)["heartbeat"];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - heartbeat();
        assert!(age.abs() < 5.0, "{age}");

        faults.hang();
        trail.note("held up").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let last = heartbeat();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(heartbeat(), last, "the writer hangs");

        faults.heal();
        let deadline = Instant::now() + Duration::from_secs(10);
        while heartbeat() <= last {
            assert!(Instant::now() < deadline, "no heartbeat came");
            std::thread::sleep(Duration::from_millis(10));
        }
        trail.close().unwrap();
        let last = heartbeat();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(heartbeat(), last, "the trail is closed");
    });
}
