//! Segments: when the next one is begun, what its header states, and what happens when it cannot be.

use std::path::Path;
use std::time::Duration;

use crate::support::{Place, of_event, records_in, segments};
use serde_json::{Value, json};
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{Outcome, PolicyViolation, Retention};

const SMALL: u64 = 4096;
const VIOLATION: PolicyViolation<'static> = PolicyViolation {
    policy: "p",
    violation: "v",
    details: "d",
    action: "a",
};

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_segment_that_is_large_enough_is_followed_by_the_next() {
    let place = Place::new();
    let trail = place
        .builder()
        .segment_bytes(SMALL)
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    for number in 0..60 {
        trail.note(format!("{number} {}", "x".repeat(200))).unwrap();
        trail.flush().unwrap();
    }
    let anchor = trail.close().unwrap().checkpoint().clone();

    let paths = segments(&place.dir());
    assert!(paths.len() > 5, "{}", paths.len());
    for (number, path) in paths.iter().enumerate() {
        let records = records_in(path);
        let event = if number == 0 {
            "TrailOpened"
        } else {
            "SegmentOpened"
        };
        assert_eq!(records[0]["event"], event);
        assert_eq!(records[0]["segment"], number);
        let is_last = number + 1 == paths.len();
        // A flush that waits goes first: up to twice the size, and one batch.
        assert!(is_last || (SMALL..3 * SMALL).contains(&size(path)));
    }
    assert!(of_event(&place.records(), "SegmentPoisoned").is_empty());
    let report = place.verify(&key, &[anchor]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!(report.void_bytes, 0);
    assert_eq!(of_event(&place.records(), "Note").len(), 60);
}

#[test]
fn critical_records_alone_fill_segments_too() {
    let place = Place::new();
    let trail = place
        .builder()
        .segment_bytes(SMALL)
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    trail.policy_violation(VIOLATION).unwrap();
                }
            });
        }
    });
    let anchor = trail.close().unwrap().checkpoint().clone();
    let paths = segments(&place.dir());
    assert!(paths.len() > 4, "{}", paths.len());
    // Somebody waits nearly always: a segment may grow to twice its size, and by one batch.
    for path in &paths {
        assert!(size(path) < 3 * SMALL, "{}", size(path));
    }
    let report = place.verify(&key, &[anchor]);
    assert!(report.closed && report.end_vouched_for, "{report}");
}

#[test]
fn a_segment_that_is_old_enough_is_followed_by_the_next() {
    let place = Place::new();
    let trail = place
        .builder()
        .segment_age(Duration::from_secs(1))
        .open_or_create();
    let trail = trail.unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    // The record goes where it went before; the next segment is begun behind it.
    trail.policy_violation(VIOLATION).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let paths = segments(&place.dir());
    // More if this machine was slow.
    assert!(paths.len() >= 2);
    let violations: usize = paths
        .iter()
        .map(|path| of_event(&records_in(path), "PolicyViolation").len())
        .sum();
    assert_eq!(violations, 3);
}

#[test]
fn each_header_states_how_long_to_keep_the_records_and_why() {
    let place = Place::new();
    place.open().close().unwrap();
    let basis = "EU AI Act, Article 26(6)";
    let trail = place.builder().retention(Retention::months(6, basis));
    let trail = trail.segment_bytes(SMALL).open_or_create().unwrap();
    for _ in 0..20 {
        trail.policy_violation(VIOLATION).unwrap();
    }
    trail.close().unwrap();
    let headers: Vec<Value> = segments(&place.dir())
        .iter()
        .map(|path| records_in(path)[0]["retention"].clone())
        .collect();
    let default = json!({"period": "P7Y", "basis": "policy of the vram-residency project"});
    assert_eq!(headers[0], default);
    assert!(headers.len() > 2);
    for header in &headers[1..] {
        assert_eq!(*header, json!({"period": "P6M", "basis": basis}));
    }
}

/// Each step of the change of segments fails once: the records go on being durable, whichever
/// segment they are in, and nothing is called broken.
#[test]
fn a_segment_that_cannot_be_begun_is_begun_later() {
    for (step, poisons) in [
        (Step::Create, false),
        (Step::Write, true),
        (Step::Sync, true),
        (Step::Rename, false),
        (Step::SyncNames, false),
    ] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.segment_bytes(SMALL).open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        faults.fail(step, StorageError::Io, 1);
        for _ in 0..40 {
            trail.policy_violation(VIOLATION).unwrap();
        }
        let anchor = trail.close().unwrap().checkpoint().clone();
        let records = place.records();
        let poisoned = of_event(&records, "SegmentPoisoned").len();
        assert_eq!(poisoned, usize::from(poisons), "{step:?}");
        let report = place.verify(&key, &[anchor]);
        assert_eq!(report.outcome, Outcome::Holds, "{step:?}: {report}");
        assert!(
            report.closed && report.end_vouched_for,
            "{step:?}: {report}"
        );
        assert!(report.segments > 2, "{step:?}: {report}");
        assert_eq!(report.records_lost + report.never_acknowledged, 0);
    }
}
