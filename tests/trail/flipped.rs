//! A bit flips in the memory of the process that writes the trail.
//!
//! The machine has no ECC, or its memory errs once too often. What the trail's writer holds for weeks is
//! a tree, a key, a position; what it holds for a millisecond is a batch of lines. Without a check, the
//! first flip makes every later checkpoint contradict the records, and nobody notices until somebody
//! verifies the trail; a flip in the signer can even give the key away. Each test here flips one bit at
//! the worst moment, and asks what a reader of the files is told afterwards.

use std::error::Error as _;
use std::time::{Duration, Instant};

use crate::support::{Place, VIOLATION, of_event, segments};
use serde_json::Value;
use vram_residency::AuditTrail;
use vram_residency::audit::faults::Memory;
use vram_residency::audit::{
    AuditTrailBuilder, NotDurable, OpenError, Outcome, RecordError, Report, VerifierKey,
};

/// A trail whose signer errs `signatures` times, after so many good ones.
fn erring(place: &Place, after: u32, signatures: u32) -> AuditTrailBuilder {
    let key = place.key().dangerous_flip_signatures(after, signatures);
    AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), key)
        .durable_within(Duration::from_secs(60))
}

#[test]
fn a_wrong_signature_is_never_written_and_the_segment_stays_good() {
    let place = Place::new();
    // The opening needs one. The faster signer errs, and so does the other one.
    let trail = erring(&place, 1, 2).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    let before = std::fs::read(&segments(&place.dir())[0]).unwrap();
    let error = trail.policy_violation(VIOLATION).unwrap_err();
    let RecordError::NotDurable(NotDurable::WriteFailed {
        operation: "sign checkpoint",
        ..
    }) = &error
    else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("memory"), "{error}");
    let after = std::fs::read(&segments(&place.dir())[0]).unwrap();
    assert_eq!(before, after, "something was written");
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for && report.closed, "{report}");
    assert_eq!(report.segments, 1, "nothing was given up");
    assert_eq!(of_event(&place.records(), "PolicyViolation").len(), 2);
}

#[test]
fn a_signer_that_errs_once_costs_no_record() {
    let place = Place::new();
    let trail = erring(&place, 1, 1).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for, "{report}");
}

#[test]
fn a_trail_is_not_opened_with_a_signature_that_is_wrong() {
    let place = Place::new();
    let error = erring(&place, 0, 2).open_or_create().unwrap_err();
    assert!(matches!(error, OpenError::Sign(_)), "{error}");
    assert!(segments(&place.dir()).is_empty(), "a segment has a name");
}

/// The trail goes on, and everything that has a receipt is there.
#[track_caller]
fn holds(report: &Report) {
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for && report.closed, "{report}");
    assert_eq!(report.records_lost, 0, "{report}");
}

#[test]
fn a_flip_in_the_tree_or_the_position_costs_a_segment_and_no_record() {
    for memory in [Memory::Tree, Memory::Position] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        for _ in 0..5 {
            trail.policy_violation(VIOLATION).unwrap();
        }
        faults.flip(memory, 1);
        let receipt = trail.policy_violation(VIOLATION).unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        let last = trail.close().unwrap();
        let anchors = [receipt.checkpoint().clone(), last.checkpoint().clone()];
        let report = place.verify(&key, &anchors);
        holds(&report);
        assert_eq!((report.segments, report.void_bytes), (2, 0), "{memory:?}");
        assert_eq!(of_event(&place.records(), "PolicyViolation").len(), 7);
        let poisoned = of_event(&place.records(), "SegmentPoisoned");
        assert_eq!(poisoned.len(), 1, "{memory:?}");
        assert_eq!(poisoned[0]["severity"], "CRITICAL");
        assert!(poisoned[0]["cause"].as_str().unwrap().contains("memory"));
        place.open().close().unwrap();
        assert!(of_event(&place.records(), "TailRecovered").is_empty());
    }
}

#[test]
fn a_flip_in_a_batch_is_found_before_it_is_written() {
    for memory in [Memory::Lines, Memory::Checkpoint] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder
            .durable_within(Duration::from_secs(60))
            .open_or_create()
            .unwrap();
        let key = trail.verifier_key().clone();
        faults.flip(memory, 1);
        trail.policy_violation(VIOLATION).unwrap();
        // It does not go away.
        let before = std::fs::read(&segments(&place.dir())[0]).unwrap();
        faults.flip(memory, 2);
        let error = trail.policy_violation(VIOLATION).unwrap_err();
        assert!(error.to_string().contains("a bit has flipped"), "{error}");
        let after = std::fs::read(&segments(&place.dir())[0]).unwrap();
        assert_eq!(before, after, "{memory:?}: something was written");
        trail.policy_violation(VIOLATION).unwrap();
        let last = trail.close().unwrap();
        let report = place.verify(&key, &[last.checkpoint().clone()]);
        holds(&report);
        assert_eq!(report.segments, 1, "{memory:?}: nothing was given up");
    }
}

/// The same where a segment begins, and with it the trail.
#[test]
fn a_flip_in_the_first_batch_of_a_segment_is_found_before_it_is_written() {
    for memory in [Memory::Lines, Memory::Checkpoint] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        faults.flip(memory, 1);
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        let last = trail.close().unwrap();
        holds(&place.verify(&key, &[last.checkpoint().clone()]));

        let (builder, faults) = place.faulty();
        faults.flip(memory, 2);
        let error = builder.open().unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("a bit has flipped"), "{error}: {cause}");
        assert_eq!(segments(&place.dir()).len(), 1);
    }
}

/// The end of the trail cannot be read for a while: nothing is signed that would rest on it.
#[test]
fn a_trail_whose_end_cannot_be_read_again_waits_until_it_can() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder
        .durable_within(Duration::from_secs(60))
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    let (path, elsewhere) = (
        segments(&place.dir()).remove(0),
        place.temp.path().join("away"),
    );
    std::fs::rename(&path, &elsewhere).unwrap();
    faults.flip(Memory::Tree, 1);
    for _ in 0..3 {
        let error = trail.policy_violation(VIOLATION).unwrap_err();
        let RecordError::NotDurable(NotDurable::WriteFailed { operation, .. }) = &error else {
            panic!("{error}");
        };
        assert_eq!(*operation, "read the trail's end again");
    }
    std::fs::rename(&elsewhere, &path).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    holds(&place.verify(&key, &[last.checkpoint().clone()]));
    let records = place.records();
    assert_eq!(of_event(&records, "PolicyViolation").len(), 5);
    assert_eq!(of_event(&records, "SegmentPoisoned").len(), 1);
}

/// Only the first segment is broken, and everything behind it is vouched for.
#[track_caller]
fn only_the_first_is_broken(place: &Place, key: &VerifierKey) {
    let report = place.verify(key, &[]);
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
    for finding in &report.findings {
        assert_eq!(finding.segment, Some(0), "{report}");
    }
    let unsound = of_event(&place.records(), "SegmentPoisoned");
    assert_eq!(unsound.len(), 1, "{unsound:?}");
    assert_eq!(unsound[0]["segment"], Value::from(0));
    assert_eq!(unsound[0]["operation"], "read again");
}

#[test]
fn a_record_that_was_not_written_as_it_was_signed_is_found_when_its_segment_is_finished() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.segment_bytes(8192).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    faults.flip(Memory::Written, 1);
    trail.policy_violation(VIOLATION).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while of_event(&place.records(), "SegmentPoisoned").is_empty() {
        assert!(Instant::now() < end, "the segment was not read again");
        trail.policy_violation(VIOLATION).unwrap();
    }
    trail.close().unwrap();
    only_the_first_is_broken(&place, &key);
    place.open().close().unwrap();
}

/// Otherwise the next opening would refuse the trail, whose last segment is damaged.
#[test]
fn a_trail_is_not_closed_in_a_segment_that_does_not_hold_what_was_signed() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.flip(Memory::Written, 1);
    trail.policy_violation(VIOLATION).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    only_the_first_is_broken(&place, &key);
    assert!(place.verify(&key, &[]).closed);
    place.open().close().unwrap();
    assert!(of_event(&place.records(), "TailRecovered").is_empty());
}

#[test]
fn a_trail_whose_segments_cannot_be_read_again_is_closed_in_time_all_the_same() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder
        .critical_deadline(Duration::from_secs(2))
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    faults.hang_reading();
    let started = Instant::now();
    let last = trail.close().unwrap();
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    holds(&place.verify(&key, &[last.checkpoint().clone()]));
    faults.heal();
}
