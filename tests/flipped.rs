//! A bit flips in the memory of the process that writes the trail.
//!
//! The machine has no ECC, or its memory errs once too often. What the trail's writer holds for weeks is
//! a tree, a key, a position; what it holds for a millisecond is a batch of lines. Without a check, the
//! first flip makes every later checkpoint contradict the records, and nobody notices until somebody
//! verifies the trail; a flip in the signer can even give the key away. Each test here flips one bit at
//! the worst moment, and asks what a reader of the files is told afterwards.

mod support;

use support::{Place, VIOLATION, of_event, segments};
use vram_residency::AuditTrail;
use vram_residency::audit::{AuditTrailBuilder, NotDurable, OpenError, Outcome, RecordError};

/// A trail whose signer errs `signatures` times, after so many good ones.
fn erring(place: &Place, after: u32, signatures: u32) -> AuditTrailBuilder {
    let key = place.key().dangerous_flip_signatures(after, signatures);
    AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), key)
        .durable_within(std::time::Duration::from_secs(60))
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
