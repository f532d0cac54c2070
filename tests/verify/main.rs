//! What the check of a trail must find, and what it must not make up.
//!
//! Most trails are made here, from signatures and hashes alone: the tree by the recursive definition
//! of RFC 6962, which the library never uses. Nothing in them comes from the library's writer. Trails that
//! the library wrote are checked in `cosigned`, `fixture`, `openssl` and `proof`.
//! `tests/verify_trail.py` has the last word on what holds: it shares no code with either.

mod built;
mod cosign;
mod cosigned;
mod damage;
mod fixture;
mod forms;
mod keys;
mod killed;
mod numbers;
mod openssl;
mod proof;
mod script;
mod shape;
#[path = "../support/mod.rs"]
mod support;
mod tampered;
mod verdict;
mod void;
mod voided;

use std::fs;
use std::process::Command;

use vram_residency::audit::{AnchorState, Checkpoint, Outcome, verify};

use built::{ORIGIN, Trail, broken, good, holds, tree};

#[test]
fn a_good_trail_holds_and_says_what_it_covers() {
    let trail = good();
    let report = trail.verify(&[trail.anchor()]);
    holds(&report);
    assert_eq!(report.records, trail.leaves.len() as u64);
    assert_eq!(report.leaves, trail.leaves.len() as u64);
    assert_eq!(
        (report.first_seq, report.last_seq),
        (Some(0), Some(trail.seq - 1))
    );
    assert_eq!((report.segments, report.first_segment), (3, Some(0)));
    assert_eq!(report.origin.as_deref(), Some(ORIGIN));
    assert_eq!(report.last_checkpoint.as_deref(), Some(trail.note.as_str()));
    assert!(report.closed && report.end_vouched_for && !report.older_segments_absent);
    assert_eq!(report.tail, None);
    assert_eq!(report.void.len(), 1);
    assert_eq!((report.void[0].segment, report.void[0].records), (0, 2));
    assert_eq!(report.anchors[0].state, AnchorState::Confirmed);
    let text = report.to_string();
    assert!(
        text.starts_with("HOLDS\n") && text.contains("closed properly"),
        "{text}"
    );
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains(r#""outcome":"holds""#)
    );
}

#[test]
fn without_an_anchor_of_the_last_checkpoint_the_end_is_not_vouched_for() {
    let mut trail = good();
    let older = trail.anchor();
    trail.notes(1).checkpoint();
    for anchors in [vec![], vec![older]] {
        let report = trail.verify(&anchors);
        holds(&report);
        assert!(!report.end_vouched_for);
        let text = report.to_string();
        assert!(
            text.contains("NOT VOUCHED FOR") && !text.contains("complete"),
            "{text}"
        );
    }
}

/// Anchors may sit at any size of the tree.
#[test]
fn an_anchor_is_confirmed_contradicted_or_not_comparable() {
    let trail = good();
    let total = trail.leaves.len();
    for size in 0..=total {
        let anchor = trail
            .sign(size, tree(&trail.leaves[..size]))
            .parse()
            .unwrap();
        let report = trail.verify(&[anchor]);
        holds(&report);
        assert_eq!(report.anchors[0].state, AnchorState::Confirmed, "{size}");
        assert_eq!(report.end_vouched_for, size == total);
        let anchor = trail.sign(size, [9; 32]).parse().unwrap();
        let report = trail.verify(&[anchor, trail.anchor()]);
        broken(&report, "contradicts");
        assert_eq!(report.anchors[0].state, AnchorState::Contradicts);
    }
    let longer = trail.sign(total + 1, [9; 32]).parse().unwrap();
    broken(&trail.verify(&[longer]), "contradicts");
    let stranger = Trail::with_key(8, ORIGIN);
    for foreign in [
        stranger.sign(total, tree(&trail.leaves)),
        Trail::with_key(7, "another").sign(total, tree(&trail.leaves)),
    ] {
        let report = trail.verify(&[foreign.parse().unwrap()]);
        holds(&report);
        assert_eq!(report.anchors[0].state, AnchorState::Foreign);
        assert!(!report.end_vouched_for);
    }
}

/// A fleet has one file of keys, and one log with the anchors of all its trails.
#[test]
fn an_anchor_of_another_trail_says_nothing_though_its_key_was_given() {
    let trail = good();
    let dir = trail.stored();
    let other = Trail::with_key(8, "vram-residency/other/0123456789abcdef");
    let keys = [other.verifier_key(), trail.verifier_key()];
    let total = trail.leaves.len();
    for size in [1, total, total + 1] {
        let foreign: Checkpoint = other.sign(size, [9; 32]).parse().unwrap();
        let report = verify(dir.path(), &keys, &[foreign.clone(), trail.anchor()]);
        holds(&report);
        assert!(report.end_vouched_for);
        assert_eq!(report.anchors[0].state, AnchorState::Foreign);
        let report = verify(dir.path(), &keys, &[foreign]);
        holds(&report);
        assert!(!report.end_vouched_for);
    }
    // Not even if it has the root of this one.
    let foreign = other.sign(total, tree(&trail.leaves)).parse().unwrap();
    let report = verify(dir.path(), &keys, &[foreign]);
    assert_eq!(report.anchors[0].state, AnchorState::Foreign, "{report}");
    assert!(!report.end_vouched_for);
}

#[test]
fn a_key_that_does_not_fit_is_not_checked_and_a_forged_trail_is_broken() {
    let trail = good();
    let dir = trail.stored();
    let other = Trail::with_key(8, "vram-residency/other/0123456789abcdef");
    for keys in [vec![], vec![other.verifier_key()]] {
        let report = verify(dir.path(), &keys, &[trail.anchor()]);
        assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
        assert_eq!(report.records, 0);
        assert!(!report.not_checked.is_empty() && !report.end_vouched_for);
    }
    let both = [other.verifier_key(), trail.verifier_key()];
    holds(&verify(dir.path(), &both, &[trail.anchor()]));
    // A key of the same name may be one that the trail had once, or will have.
    let impostor = Trail::with_key(8, ORIGIN);
    let report = verify(dir.path(), &[impostor.verifier_key()], &[]);
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    assert!(
        report.not_checked[0].contains(&trail.key_text()),
        "{report}"
    );
    // Whoever rewrites a trail has no way to sign what the headers name.
    let mut forged = Trail::with_key(8, ORIGIN);
    forged.open("TrailOpened").notes(1).checkpoint();
    let text = String::from_utf8(forged.segments[0].clone()).unwrap();
    let named = text.replace(&forged.key_text(), &trail.key_text());
    assert_ne!(text, named);
    forged.segments[0] = named.into_bytes();
    broken(
        &verify(forged.stored().path(), &[trail.verifier_key()], &[]),
        "not signed",
    );

    let mut mixed = trail.clone();
    let mut stranger = Trail::with_key(8, "vram-residency/other/0123456789abcdef");
    stranger
        .open("TrailOpened")
        .checkpoint()
        .open("TrailOpened")
        .checkpoint();
    mixed.segments[1] = stranger.segments[1].clone();
    broken(&mixed.verify(&[]), "");
    let mut mixed = trail.clone();
    mixed.segments[0] = stranger.segments[0].clone();
    broken(&mixed.verify(&[]), "of another trail");
}

#[test]
fn what_cannot_be_read_is_not_checked() {
    let trail = good();
    let keys = [trail.verifier_key()];
    let empty = tempfile::tempdir().unwrap();
    for dir in [empty.path(), &empty.path().join("absent")] {
        let report = verify(dir, &keys, &[trail.anchor()]);
        assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    }
    let dir = trail.stored();
    let path = dir.path().join("000001.jsonl");
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
    let report = verify(dir.path(), &keys, &[trail.anchor()]);
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    fs::remove_file(&path).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let report = verify(dir.path(), &keys, &[trail.anchor()]);
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    fs::write(dir.path().join("000000.jsonl"), b"").unwrap();
    broken(&verify(dir.path(), &keys, &[]), "empty");
}

#[test]
fn with_the_oldest_segments_absent_it_holds_from_there_on() {
    let trail = good();
    let dir = trail.stored();
    fs::remove_file(dir.path().join("000000.jsonl")).unwrap();
    let older = trail.sign(2, tree(&trail.leaves[..2])).parse().unwrap();
    let edge = trail.sign(4, tree(&trail.leaves[..4])).parse().unwrap();
    let report = verify(
        dir.path(),
        &[trail.verifier_key()],
        &[older, edge, trail.anchor()],
    );
    holds(&report);
    assert!(report.older_segments_absent && report.end_vouched_for);
    assert_eq!((report.first_segment, report.first_leaf), (Some(1), 4));
    assert_eq!(report.first_seq, Some(4));
    assert_eq!(report.records, trail.leaves.len() as u64 - 4);
    let states: Vec<_> = report.anchors.iter().map(|anchor| anchor.state).collect();
    assert_eq!(
        states,
        [
            AnchorState::NotComparable,
            AnchorState::Confirmed,
            AnchorState::Confirmed
        ]
    );
    assert!(report.to_string().contains("OLDER SEGMENTS ARE ABSENT"));
}
