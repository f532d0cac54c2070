//! Several keys: which one vouches for what, and what is said when one was not given.

use serde_json::json;
use vram_residency::audit::{
    AnchorState, Missing, Outcome, Report, UnanchoredEnd, VerifierKey, verify,
};

use crate::built::{Trail, broken, holds};

/// Three segments under key 7, which announces key 9, and one under that, closed.
fn changed() -> Trail {
    let mut trail = Trail::new();
    trail.open("TrailOpened").notes(1).checkpoint();
    trail.open("SegmentOpened").notes(2).checkpoint();
    trail.open("TrailOpened").change_key(9);
    trail.open("SegmentOpened").checkpoint().notes(1);
    trail.record("TrailClosed", json!({})).checkpoint();
    trail
}

fn key(seed: u8) -> VerifierKey {
    Trail::with_key(seed, crate::built::ORIGIN).verifier_key()
}

fn check(trail: &Trail, keys: &[VerifierKey]) -> Report {
    verify(trail.stored().path(), keys, &[trail.anchor()])
}

#[test]
fn each_key_vouches_for_its_segments() {
    let trail = changed();
    let report = check(&trail, &[key(9), key(7)]);
    holds(&report);
    assert_eq!(report.missing(UnanchoredEnd::Refused), []);
    let keys: Vec<_> = report
        .keys
        .iter()
        .map(|entry| (entry.key.clone(), entry.segments, entry.leaves))
        .collect();
    assert_eq!(
        keys,
        [
            (key(7).to_string(), [0, 2], Some([0, 7])),
            (key(9).to_string(), [3, 3], Some([7, 10])),
        ]
    );
    assert!(report.to_string().contains("vouches for leaves 0 up to 7"));
}

#[test]
fn segments_of_a_key_that_was_not_given_are_not_checked_and_the_others_are() {
    let trail = changed();
    let new = check(&trail, &[key(9)]);
    assert_eq!(new.outcome, Outcome::NotChecked, "{new}");
    assert_eq!(
        new.not_checked,
        [format!(
            "segments 000000 to 000002 name the key {}, which was not given",
            key(7)
        )]
    );
    assert_eq!((new.records, new.first_leaf, new.leaves), (3, 7, 10));
    assert_eq!(new.anchors[0].state, AnchorState::Confirmed);
    assert!(!new.end_vouched_for);

    let old = check(&trail, &[key(7)]);
    assert_eq!(old.outcome, Outcome::NotChecked, "{old}");
    assert_eq!((old.records, old.first_leaf, old.leaves), (7, 0, 7));
    assert_eq!(old.anchors[0].state, AnchorState::Foreign);
    assert!(!old.closed);
    // What it says of leaves that were not checked is neither right nor wrong.
    let anchor = Trail::new().sign(9, [9; 32]).parse().unwrap();
    let old = verify(trail.stored().path(), &[key(7)], &[anchor]);
    assert_eq!(old.outcome, Outcome::NotChecked, "{old}");
    assert_eq!(old.anchors[0].state, AnchorState::NotComparable);

    // What can be checked is: damage goes before what was not checked.
    for (segment, given) in [(1, 7), (3, 9)] {
        let mut damaged = trail.clone();
        let at = damaged.segments[segment].len() / 2;
        damaged.segments[segment][at] ^= 1;
        broken(&check(&damaged, &[key(given)]), "");
        let other = if given == 7 { 9 } else { 7 };
        let report = check(&damaged, &[key(other)]);
        assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    }
}

#[test]
fn the_key_changes_when_it_is_announced_and_only_then() {
    let both = [key(7), key(9), key(8)];
    let mut sudden = Trail::new();
    sudden.open("TrailOpened").notes(1).checkpoint();
    sudden.key = Trail::with_key(9, "").key;
    sudden.open("SegmentOpened").checkpoint();
    broken(&check(&sudden, &both), "another key");
    // Whether the stranger's key is given or not.
    broken(&check(&sudden, &both[..1]), "another key");

    let mut ignored = Trail::new();
    ignored.open("TrailOpened").change_key(9);
    ignored.key = Trail::with_key(7, "").key;
    ignored.open("SegmentOpened").checkpoint();
    broken(&check(&ignored, &both), "another key");

    let mut other = Trail::new();
    other.open("TrailOpened").change_key(9);
    other.key = Trail::with_key(8, "").key;
    other.open("SegmentOpened").checkpoint();
    broken(&check(&other, &both), "another key");

    let mut inside = Trail::new();
    inside.open("TrailOpened").change_key(9);
    inside.notes(1).checkpoint().notes(1).checkpoint();
    broken(&check(&inside, &both), "behind `KeyChanged`");
    let mut behind = Trail::new();
    behind.open("TrailOpened").change_key(9);
    behind.key = Trail::with_key(7, "").key;
    behind.notes(1).checkpoint();
    broken(&check(&behind, &both), "behind `KeyChanged`");
}

/// The process dies between the announcement and the first segment under the new key.
#[test]
fn a_change_that_was_cut_off_goes_on_with_the_next_run() {
    let mut trail = Trail::new();
    trail.open("TrailOpened").change_key(9);
    let cut = check(&trail, &[key(7), key(9)]);
    holds(&cut);
    assert_eq!(cut.missing(UnanchoredEnd::Refused), [Missing::Close]);
    trail.open("TrailOpened").recovered(1).checkpoint();
    trail.record("TrailClosed", json!({})).checkpoint();
    let report = check(&trail, &[key(7), key(9)]);
    holds(&report);
    assert_eq!(report.missing(UnanchoredEnd::Refused), []);
}

/// The report lists 256 runs of keys. A segment that nobody could check counts behind them, too.
#[test]
fn a_key_that_was_not_given_is_missed_however_many_keys_come_before() {
    let mut trail = Trail::new();
    trail.open("TrailOpened");
    for change in 0..300 {
        trail.change_key(if change % 2 == 0 { 9 } else { 7 });
        trail.open("SegmentOpened");
    }
    trail.change_key(8).open("SegmentOpened").checkpoint();
    trail.record("TrailClosed", json!({})).checkpoint();
    let all = check(&trail, &[key(7), key(8), key(9)]);
    assert_eq!(all.missing(UnanchoredEnd::Refused), [], "{all}");
    holds(&all);
    assert_eq!(all.keys.len(), 256);

    let old = check(&trail, &[key(7), key(9)]);
    assert_eq!(old.outcome, Outcome::NotChecked, "{old}");
    assert_eq!(
        old.not_checked,
        ["1 more segments name a key that was not given"]
    );
    // What stands behind the full list is no part of its last entry.
    assert_eq!(old.keys.last().unwrap().segments, [255, 255]);
}

/// Whoever writes a header chooses how long the key in it is.
#[test]
fn of_a_long_key_that_was_not_given_the_beginning_is_kept() {
    let long = format!("x{}", "é".repeat(20_000));
    for (named, kept) in [(&long[..], &long[..511]), ("short", "short")] {
        let mut trail = Trail::new();
        trail.named = Some(named.to_owned());
        trail.open("TrailOpened");
        let report = trail.verify(&[]);
        assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
        assert_eq!(report.keys[0].key, kept);
        assert!(report.not_checked[0].len() < 700);
    }
}

#[test]
fn a_header_that_names_another_key_than_signs_is_found() {
    let mut trail = changed();
    let text = String::from_utf8(trail.segments[0].clone()).unwrap();
    let renamed = text.replacen(&key(7).to_string(), &key(8).to_string(), 1);
    assert_ne!(text, renamed);
    trail.segments[0] = renamed.into_bytes();
    for keys in [vec![key(7), key(9)], vec![key(7), key(8), key(9)]] {
        broken(&check(&trail, &keys), "not signed");
    }
}

#[test]
fn what_is_missing_may_be_explained_where_nothing_was_checked() {
    let mut trail = crate::numbers::numbered(&[1, 4]);
    trail.change_key(9).open("SegmentOpened");
    trail.lost(2, 3).checkpoint();
    holds(&check(&trail, &[key(7), key(9)]));
    let report = check(&trail, &[key(7)]);
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
}
