//! Runs that were killed: the next one begins at the bound of their numbers, and a reader learns that
//! and when they were killed, and how much is missing at most. Only of format 2 is this known.

use serde_json::json;
use vram_residency::audit::{Accepted, Missing, Report, UnanchoredEnd, Verdict};

use crate::built::{Trail, broken, holds};
use crate::numbers::killed;

/// Numbers 0 to 2 of 20 are acknowledged, and the process is killed; the next one begins at 20.
pub(crate) fn bounded() -> Trail {
    let mut trail = Trail::new();
    trail.below = Some(20);
    trail.open("TrailOpened").notes(2).checkpoint();
    trail.seq = 20;
    trail.below = Some(40);
    trail
}

fn missing(report: &Report, kills_before: u64) -> Vec<Missing> {
    report.missing(Accepted::from(UnanchoredEnd::Refused).kills_before(kills_before))
}

#[test]
fn a_killed_run_is_missing_with_its_time_span_and_at_most_how_many_records() {
    let mut trail = bounded();
    trail.open("TrailOpened").recovered(19).checkpoint();
    trail.close();
    let report = trail.verify(&[trail.anchor()]);
    holds(&report);
    assert_eq!((report.runs.closed, report.runs.killed), (1, 1));
    let kill = &report.kills[0];
    assert_eq!(
        (kill.segment, kill.last_seq, kill.next_seq),
        (0, Some(2), 20)
    );
    // Numbers 3 to 19.
    assert_eq!(kill.records_at_most, Some(17));
    let (from, to) = (
        "2026-01-02T03:04:05.000000002Z",
        "2026-01-02T03:04:05.000000020Z",
    );
    assert_eq!(
        (kill.last_time.as_deref(), &*kill.next_time),
        (Some(from), to)
    );
    let text = report.to_string();
    let line = format!(
        "killed:   in segment 000000, between record 2 ({from}) and record 20 ({to}): at most 17 \
         numbered records are missing\n"
    );
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("runs:     1 closed, 1 KILLED\n"), "{text}");
    assert_eq!(missing(&report, 0), [Missing::KilledRuns]);
    assert_eq!(missing(&report, 20), [Missing::KilledRuns]);
    assert_eq!(missing(&report, 21), []);
    let accepted = Accepted::from(UnanchoredEnd::Refused);
    assert_eq!(report.verdict(accepted), Verdict::Lacking);
    assert_eq!(report.verdict(accepted.kills_before(21)), Verdict::Sound);
}

#[test]
fn a_run_that_was_killed_with_nothing_missing_is_a_killed_run() {
    let mut trail = Trail::new();
    trail.below = Some(3);
    trail.open("TrailOpened").notes(2).checkpoint();
    trail.below = Some(40);
    trail.open("TrailOpened").recovered(2).checkpoint();
    let report = trail.verify(&[trail.anchor()]);
    holds(&report);
    assert_eq!(report.never_acknowledged, 0);
    assert_eq!(missing(&report, 0), [Missing::Close, Missing::KilledRuns]);
}

#[test]
fn the_run_after_a_kill_begins_at_the_bound() {
    let run = |first: u64, highest: u64| {
        let mut trail = bounded();
        trail.seq = first;
        trail.open("TrailOpened").recovered(highest).checkpoint();
        trail.verify(&[])
    };
    holds(&run(20, 19));
    broken(&run(25, 19), "numbers 20 to 24 are missing");
    broken(&run(19, 18), "may have given those below 20");
    broken(&run(3, 2), "may have given those below 20");
    broken(&run(25, 20), "numbers up to 19 at most");
    broken(&run(25, 2), "numbers up to 19 at most");

    // What raised it counts, once it is acknowledged.
    for acknowledged in [true, false] {
        let mut trail = bounded();
        trail.seq = 3;
        trail.record("NumbersReserved", json!({"numbers_below": 30}));
        if acknowledged {
            trail.checkpoint();
        }
        trail.seq = 20;
        trail.open("TrailOpened").recovered(19).checkpoint();
        if acknowledged {
            broken(&trail.verify(&[]), "may have given those below 30");
        } else {
            holds(&trail.verify(&[]));
        }
    }
}

#[test]
fn a_record_has_a_number_below_a_bound_that_stands_before_it() {
    let mut trail = bounded();
    trail.seq = 3;
    trail.record("NumbersReserved", json!({"numbers_below": 30}));
    trail
        .record("NumbersReserved", json!({"numbers_below": 25}))
        .checkpoint();
    let notes = |count| {
        let mut trail = trail.clone();
        trail.notes(count).checkpoint();
        trail.verify(&[])
    };
    // Numbers 5 to 29, and 30.
    holds(&notes(25));
    broken(
        &notes(26),
        "number 30 was given before the bound 30 was raised",
    );

    let mut header = trail.clone();
    header.seq = 40;
    broken(
        &header.open("SegmentOpened").checkpoint().verify(&[]),
        "number 40 was given before the bound 40",
    );
    let mut lowered = trail.clone();
    lowered.seq = 5;
    lowered.below = Some(29);
    broken(
        &lowered.open("SegmentOpened").checkpoint().verify(&[]),
        "30 was stated before",
    );
}

#[test]
fn behind_a_run_that_was_closed_numbers_go_on_without_a_gap() {
    let mut trail = bounded();
    trail.seq = 3;
    trail.close();
    let mut next = trail.clone();
    next.open("TrailOpened").close();
    let report = next.verify(&[next.anchor()]);
    holds(&report);
    assert_eq!((report.runs.closed, report.runs.killed), (2, 0));
    assert_eq!(missing(&report, 0), []);
    assert!(!report.to_string().contains("KILLED"), "{report}");

    // Bytes that came behind the end of a closed run are no kill.
    let mut tail = trail.clone();
    tail.write(b"{");
    tail.open("TrailOpened").recovered(3);
    tail.close();
    let report = tail.verify(&[tail.anchor()]);
    holds(&report);
    assert_eq!((report.runs.closed, report.runs.killed), (2, 0));
    assert_eq!(missing(&report, 0), []);
}

/// Version 0.1.0 knew no bound: what it says of a kill stays what it was.
#[test]
fn a_killed_run_of_format_1_is_missing_only_if_numbers_are() {
    let mut trail = killed();
    trail.recovered(4).notes(1).checkpoint();
    let report = trail.verify(&[trail.anchor()]);
    assert_eq!(missing(&report, 0), [Missing::Close, Missing::Records]);
    assert_eq!(missing(&report, 6), [Missing::Close]);
    assert_eq!(report.kills[0].records_at_most, Some(2));

    let mut trail = Trail::new();
    trail.open("TrailOpened").notes(2).checkpoint();
    trail.open("TrailOpened").recovered(2).checkpoint();
    let report = trail.verify(&[trail.anchor()]);
    assert_eq!(missing(&report, 0), [Missing::Close]);
    assert_eq!(report.runs.killed, 1);

    // A run of format 2 behind one of format 1, and the other way round.
    let mut upgraded = killed();
    upgraded.segments.pop();
    upgraded.leaves.truncate(upgraded.acknowledged);
    upgraded.seq = 5;
    upgraded.below = Some(90);
    upgraded.open("TrailOpened").recovered(4).checkpoint();
    holds(&upgraded.verify(&[]));
    let mut downgraded = bounded();
    downgraded.below = None;
    downgraded.seq = 3;
    downgraded.open("TrailOpened").recovered(2).checkpoint();
    holds(&downgraded.verify(&[]));
}

#[test]
fn the_list_of_killed_runs_is_bounded_and_what_is_not_listed_still_counts() {
    let mut trail = Trail::new();
    trail.below = Some(3);
    trail.open("TrailOpened").notes(2).checkpoint();
    for _ in 0..300 {
        let last = trail.seq - 1;
        trail.below = Some(last + 3);
        trail.open("TrailOpened").recovered(last).checkpoint();
    }
    let report = trail.verify(&[trail.anchor()]);
    holds(&report);
    assert_eq!((report.runs.killed, report.kills.len()), (300, 256));
    assert!(report.to_string().contains("44 earlier runs, not listed"));
    let newest = report.kills[255].next_seq;
    assert!(missing(&report, newest).contains(&Missing::KilledRuns));
    assert!(!missing(&report, newest + 1).contains(&Missing::KilledRuns));
}

#[test]
fn losses_without_a_number_are_counted_with_those_that_have_one() {
    let mut trail = Trail::new();
    trail.below = Some(20);
    trail.open("TrailOpened");
    trail.seq = 4;
    trail.record(
        "RecordsLost",
        json!({"first": 1, "last": 3, "count": 3, "unnumbered": 1000, "cause": "queue_full"}),
    );
    trail.checkpoint();
    let report = trail.verify(&[]);
    holds(&report);
    assert_eq!((report.records_lost, report.lost_unnumbered), (1003, 1000));
    let text = report.to_string();
    assert!(text.contains("1003 records, by the trail's own account: 1-3, 1000 without a number"));
}
