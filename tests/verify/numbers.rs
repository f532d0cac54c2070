//! Numbers: in order, none twice, none missing without a reason; only acknowledged copies count.

use serde_json::json;

use crate::built::{Trail, broken, holds};
use crate::script::Script;

/// A trail with one segment, whose records have these numbers.
pub(crate) fn numbered(numbers: &[u64]) -> Trail {
    let mut trail = Trail::new();
    trail.open("TrailOpened");
    for number in numbers {
        trail.record_at(*number, "Note", json!({"text": "n"}));
        trail.seq = number + 1;
    }
    trail
}

#[test]
fn numbers_go_up_and_a_missing_one_has_a_reason() {
    holds(&numbered(&[1, 2, 3]).checkpoint().verify(&[]));
    broken(
        &numbered(&[1, 3]).checkpoint().verify(&[]),
        "numbers 2 to 2 are missing",
    );
    broken(
        &numbered(&[1, 2, 2]).checkpoint().verify(&[]),
        "again or out of order",
    );
    broken(
        &numbered(&[1, 0]).checkpoint().verify(&[]),
        "again or out of order",
    );
    broken(
        &numbered(&[3, 2]).checkpoint().verify(&[]),
        "again or out of order",
    );
    broken(
        &numbered(&[1, 6]).lost(2, 4).checkpoint().verify(&[]),
        "numbers 5 to 5 are missing",
    );

    let mut late = numbered(&[1, 4, 8]);
    late.checkpoint().lost(2, 3).lost(5, 7).checkpoint();
    let report = late.verify(&[]);
    holds(&report);
    assert_eq!(
        (report.records_lost, report.lost),
        (5, vec![[2, 3], [5, 7]])
    );
    assert_eq!(report.records, 6);
}

#[test]
fn what_is_said_to_be_lost_must_not_be_there() {
    for (first, last) in [(1, 2), (2, 4), (0, 0), (2, 9), (5, 5)] {
        let mut trail = numbered(&[1, 4]);
        trail.lost(first, last).checkpoint();
        broken(&trail.verify(&[]), "numbers");
    }
    let mut twice = numbered(&[1, 4]);
    twice.lost(2, 3).lost(2, 3).checkpoint();
    broken(&twice.verify(&[]), "named twice");
    let mut count = numbered(&[1, 4]);
    count
        .record("RecordsLost", json!({"first": 2, "last": 3, "count": 1}))
        .checkpoint();
    broken(&count.verify(&[]), "no range");
}

/// A process is killed with records 3 to 6 unacknowledged; 3 and 4 had reached the file.
pub(crate) fn killed() -> Trail {
    let mut trail = Trail::new();
    trail.open("TrailOpened").notes(2).checkpoint().notes(2);
    trail.seq = 5;
    trail.open("TrailOpened");
    trail
}

#[test]
fn what_a_killed_process_never_acknowledged_is_no_gap_if_the_next_one_says_so() {
    let mut trail = killed();
    trail.recovered(4).notes(1).checkpoint();
    let report = trail.verify(&[trail.anchor()]);
    holds(&report);
    assert_eq!((report.never_acknowledged, report.void[0].records), (2, 2));

    broken(
        &killed().notes(1).checkpoint().verify(&[]),
        "numbers 3 to 4 are missing",
    );
    broken(
        &killed().recovered(3).checkpoint().verify(&[]),
        "numbers 4 to 4 are missing",
    );
    broken(&killed().recovered(6).checkpoint().verify(&[]), "not below");

    let mut grown = trail.clone();
    grown.segments[0].extend_from_slice(b"x");
    broken(&grown.verify(&[]), "void bytes");
}

#[test]
fn a_gap_before_the_last_acknowledged_number_is_not_explained_by_a_kill() {
    let mut trail = numbered(&[1, 3]);
    trail.checkpoint().notes(1);
    trail.open("TrailOpened").recovered(4).checkpoint();
    let report = trail.verify(&[]);
    broken(&report, "numbers 2 to 2 are missing");
    assert_eq!(report.findings_total, 1, "{report}");
}

#[test]
fn a_header_that_no_record_followed_is_no_gap() {
    let mut trail = numbered(&[1, 2]);
    trail.checkpoint();
    trail.seq = 9;
    trail.open("SegmentOpened").checkpoint();
    holds(&trail.verify(&[]));
    trail.open("TrailOpened").recovered(9).checkpoint();
    let report = trail.verify(&[]);
    holds(&report);
    assert_eq!(report.never_acknowledged, 6);
    assert_eq!((report.records, report.last_seq), (6, Some(11)));
}

#[test]
fn only_the_acknowledged_copy_of_a_record_counts() {
    let mut trail = numbered(&[1]);
    trail.checkpoint().notes(1).lost(1, 1);
    let before = trail.verify(&[]);
    holds(&before);
    assert_eq!((before.records, before.records_lost), (2, 0));
    trail.open("SegmentOpened");
    trail.record_at(2, "Note", json!({"text": "again"}));
    trail.record_at(3, "Note", json!({"text": "again"}));
    trail.checkpoint();
    let report = trail.verify(&[]);
    holds(&report);
    assert_eq!((report.records, report.last_seq), (5, Some(4)));
}

/// The void bytes may hold a whole batch, even one that matches: it is not counted.
#[test]
fn a_matching_batch_behind_the_stated_end_is_void() {
    let mut trail = numbered(&[1]);
    trail.checkpoint();
    let kept = trail.clone();
    trail.notes(1).checkpoint();
    let end = trail.segments[0].clone();
    let mut next = kept;
    next.segments[0] = end;
    next.seq = 3;
    next.open("SegmentOpened");
    next.record_at(2, "Note", json!({"text": "again"}));
    next.checkpoint();
    let report = next.verify(&[next.anchor()]);
    holds(&report);
    assert_eq!((report.records, report.void[0].records), (4, 1));
    broken(&next.verify(&[trail.anchor()]), "contradicts");

    let note = next.sign(9, [9; 32]);
    next.segments[0].extend(format!("{}\n", json!({"checkpoint": note})).as_bytes());
    broken(&next.verify(&[]), "more than one batch");
}

/// Whoever holds the key can leave a gap as long as all the numbers there are.
#[test]
fn a_gap_of_any_length_is_found_and_can_be_explained() {
    const FAR: u64 = 1 << 50;
    let mut lost = numbered(&[1, FAR]);
    lost.lost(2, FAR - 1).checkpoint();
    let report = lost.verify(&[]);
    holds(&report);
    assert_eq!(report.records_lost, FAR - 2);
    let mut silent = numbered(&[1, FAR]);
    silent.checkpoint();
    broken(&silent.verify(&[]), "are missing");
    let mut partly = numbered(&[1, FAR]);
    partly.lost(3, FAR - 1).checkpoint();
    broken(&partly.verify(&[]), "numbers 2 to 2 are missing");
    let mut killed = numbered(&[1]);
    killed.checkpoint();
    killed.seq = FAR;
    killed
        .open("TrailOpened")
        .recovered(FAR - 1)
        .notes(1)
        .checkpoint();
    let report = killed.verify(&[]);
    holds(&report);
    assert_eq!(report.never_acknowledged, FAR - 2);
    let mut twice = killed.clone();
    twice.lost(5, 6).checkpoint();
    broken(&twice.verify(&[]), "named twice");
    if let Some(mut script) = Script::start() {
        for (name, trail) in [
            ("lost", lost),
            ("silent", silent),
            ("partly", partly),
            ("killed", killed),
            ("lost and killed", twice),
        ] {
            let (dir, keys) = (trail.stored(), [trail.key_text()]);
            script.agrees(name, dir.path(), &keys, None, &trail.verify(&[]));
        }
    }
}
