//! What a report comes to, for whoever acts on it; and how far a check has come.

use std::ops::ControlFlow;

use vram_residency::audit::{Missing, Outcome, UnanchoredEnd, Verdict, verify_with_progress};

use crate::built::{good, small};
use crate::numbers::{killed, numbered};

/// The statuses are those that `vram-audit verify` promises.
#[test]
fn broken_goes_before_not_checked_and_that_before_missing() {
    let trail = good();
    let anchored = trail.verify(&[trail.anchor()]);
    assert_eq!(anchored.verdict(UnanchoredEnd::Refused), Verdict::Sound);
    assert_eq!(anchored.missing(UnanchoredEnd::Refused), []);
    let mut report = trail.verify(&[]);
    assert_eq!(report.verdict(UnanchoredEnd::Accepted), Verdict::Sound);
    assert_eq!(report.verdict(UnanchoredEnd::Refused), Verdict::Lacking);
    report.outcome = Outcome::NotChecked;
    assert_eq!(report.verdict(UnanchoredEnd::Accepted), Verdict::NotChecked);
    report.outcome = Outcome::Broken;
    assert_eq!(report.verdict(UnanchoredEnd::Accepted), Verdict::Broken);
    let statuses = [
        Verdict::Sound,
        Verdict::Broken,
        Verdict::NotChecked,
        Verdict::Lacking,
    ];
    assert_eq!(statuses.map(Verdict::exit_code), [0, 1, 2, 3]);
}

#[test]
fn what_is_missing_is_named() {
    let missing = |trail: &crate::built::Trail| {
        trail
            .verify(&[trail.anchor()])
            .missing(UnanchoredEnd::Refused)
    };
    let mut open = good();
    open.notes(1).checkpoint();
    assert_eq!(missing(&open), [Missing::Close]);
    let mut tail = good();
    tail.write(b"{");
    assert_eq!(missing(&tail), [Missing::Close, Missing::TailAcknowledged]);
    let mut lost = numbered(&[1, 4]);
    lost.lost(2, 3).checkpoint();
    assert_eq!(missing(&lost), [Missing::Close, Missing::Records]);
    let mut dead = killed();
    dead.recovered(4).checkpoint();
    assert_eq!(missing(&dead), [Missing::Close, Missing::Records]);

    let trail = good();
    let dir = trail.stored();
    std::fs::remove_file(dir.path().join("000000.jsonl")).unwrap();
    let keys = [trail.verifier_key()];
    let report = vram_residency::audit::verify(dir.path(), &keys, &[]);
    assert_eq!(
        report.missing(UnanchoredEnd::Refused),
        [Missing::EndVouchedFor, Missing::OlderSegments]
    );
}

#[test]
fn progress_ends_at_the_bytes_of_all_segments_and_can_stop() {
    let trail = good();
    let (dir, keys) = (trail.stored(), [trail.verifier_key()]);
    let total: u64 = trail.segments.iter().map(|bytes| bytes.len() as u64).sum();
    let mut last = 0;
    let report = verify_with_progress(dir.path(), &keys, &[trail.anchor()], |progress| {
        assert!(progress.done >= last && progress.total == total);
        last = progress.done;
        ControlFlow::Continue(())
    });
    assert_eq!(last, total);
    assert_eq!(report, trail.verify(&[trail.anchor()]));

    let report = verify_with_progress(dir.path(), &keys, &[trail.anchor()], |_| {
        ControlFlow::Break(())
    });
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    assert_eq!(report.not_checked, ["the check was stopped"]);

    let mut damaged = small();
    damaged.segments[0][3] ^= 1;
    let first = damaged.segments[0].len() as u64;
    let keys = [damaged.verifier_key()];
    let report = verify_with_progress(damaged.stored().path(), &keys, &[], |progress| {
        if progress.done > first {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
    assert_eq!(report.not_checked.len(), 1);
}
