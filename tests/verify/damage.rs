//! What was cut, flipped, moved or made up: found, located, and never vouched for.

use std::fs;

use serde_json::json;
use vram_residency::audit::{AnchorState, Outcome, verify};

use crate::built::{Trail, broken, good, holds, small, tree};

/// A cut anywhere in the last segment is a torn tail or a shorter trail, and an anchor tells.
#[test]
fn a_cut_leaves_a_tail_and_an_anchor_finds_it() {
    let trail = small();
    let last = trail.segments.len() - 1;
    let text = String::from_utf8(trail.segments[last].clone()).unwrap();
    let first = text.find("\n{\"checkpoint\"").unwrap() + 1;
    let named = first + text[first..].find('\n').unwrap() + 1;
    for length in 0..trail.segments[last].len() {
        let mut cut = trail.clone();
        cut.segments[last].truncate(length);
        let report = cut.verify(&[]);
        if length < named {
            broken(&report, "");
        } else {
            holds(&report);
            assert!(!report.end_vouched_for && !report.closed);
            let tail = report.tail.map_or(0, |tail| tail.bytes);
            let text = &cut.segments[last][..length - tail as usize];
            assert!(text.ends_with(b"\"}\n"), "ends behind a checkpoint");
        }
        broken(&cut.verify(&[trail.anchor()]), "");
    }
}

/// In nearly every byte, void ones too; `tampered` flips every bit of a trail without such bytes. Here
/// the segments before the last one are also checked without an anchor.
#[test]
fn a_flipped_bit_never_passes_with_an_anchor() {
    let trail = small();
    let dir = trail.stored();
    let (keys, anchors) = ([trail.verifier_key()], [trail.anchor()]);
    let last = trail.segments.len() - 1;
    let void = trail.segments[0].len() - verify(dir.path(), &keys, &[]).void[0].bytes as usize;
    for (number, bytes) in trail.segments.iter().enumerate() {
        let path = dir.path().join(format!("{number:06}.jsonl"));
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let report = verify(dir.path(), &keys, &anchors);
            let is_void = number == 0 && bit / 8 >= void;
            assert_eq!(
                report.end_vouched_for, is_void,
                "segment {number}, bit {bit}\n{report}"
            );
            if number != last && !is_void {
                let alone = verify(dir.path(), &keys, &[]);
                assert_eq!(
                    alone.outcome,
                    Outcome::Broken,
                    "segment {number}, bit {bit}\n{alone}"
                );
            }
        }
        fs::write(&path, bytes).unwrap();
    }
}

/// Damage in one segment is located, and the others are still checked.
#[test]
fn the_check_goes_on_behind_damage() {
    let trail = good();
    let mut damaged = trail.clone();
    let text = String::from_utf8(trail.segments[1].clone()).unwrap();
    damaged.segments[1] = text.replacen("hello", "jello", 1).into_bytes();
    let report = damaged.verify(&[trail.anchor()]);
    broken(&report, "another root");
    assert_eq!(report.findings_total, 1, "{report}");
    let line = text.lines().count() as u64;
    assert_eq!(report.findings[0].segment, Some(1));
    assert_eq!(report.findings[0].line, Some(line));
    assert_eq!(report.findings[0].leaves, Some([9, 12]));
    assert_eq!(report.records, trail.leaves.len() as u64 - 3);
    assert_eq!(report.anchors[0].state, AnchorState::Confirmed);
}

#[test]
fn a_damaged_checkpoint_with_a_matching_one_behind_it_is_damage() {
    let trail = good();
    let mut damaged = trail.clone();
    let text = String::from_utf8(trail.segments[2].clone()).unwrap();
    let at = text
        .find("checkpoint\":\"vram")
        .and_then(|_| text.rfind("\n{\"checkpoint"))
        .unwrap();
    let at = text[..at].rfind("\n{\"checkpoint").unwrap();
    damaged.segments[2][at + 3] = b'x';
    let report = damaged.verify(&[trail.anchor()]);
    broken(&report, "neither a record nor a checkpoint");
    assert_eq!(report.findings_total, 1, "{report}");
    assert_eq!(report.findings[0].leaves, Some([13, 15]));
    assert_eq!(report.records, trail.leaves.len() as u64);
}

#[test]
fn a_last_batch_that_does_not_match_is_a_tail_and_a_second_one_is_damage() {
    let mut trail = good();
    let (acknowledged, end) = (trail.leaves.len() as u64, trail.end);
    trail.notes(2).checkpoint();
    let text = String::from_utf8_lossy(&trail.segments[2]);
    let at = text.rfind("hello").unwrap();
    let mut torn = trail.clone();
    torn.segments[2][at] ^= 1;
    let report = torn.verify(&[]);
    holds(&report);
    assert_eq!((report.leaves, report.closed), (acknowledged, false));
    let tail = report.tail.unwrap();
    assert_eq!((tail.bytes, tail.records), ((trail.end - end) as u64, 2));
    assert!(report.to_string().contains("only an anchor can tell"));
    broken(&torn.verify(&[trail.anchor()]), "contradicts");

    for more in [&b"\0"[..], b"\n", b"{"] {
        let mut damaged = torn.clone();
        damaged.write(more);
        broken(&damaged.verify(&[]), "another root");
    }
    trail.notes(1).checkpoint();
    trail.segments[2][at] ^= 1;
    broken(&trail.verify(&[]), "another root");
}

/// The checkpoint line's last sector holds something else, newlines among it.
#[test]
fn a_last_checkpoint_whose_end_is_garbage_is_a_tail() {
    let mut trail = good();
    let end = trail.end;
    trail.notes(1).checkpoint();
    let length = trail.segments[2].len();
    trail.segments[2][length - 60..].fill(b'\n');
    let report = trail.verify(&[]);
    holds(&report);
    assert_eq!(report.tail.unwrap().bytes, (length as u64) - end as u64);
    trail.notes(1);
    broken(&trail.verify(&[]), "");
}

#[test]
fn an_old_checkpoint_at_the_end_is_not_a_tail() {
    let mut trail = good();
    let old = trail.sign(3, tree(&trail.leaves[..3]));
    trail.write(format!("{}\n", json!({"checkpoint": old})).as_bytes());
    broken(&trail.verify(&[]), "covers no record");
}

#[test]
fn segments_cannot_be_removed_doubled_or_swapped() {
    let trail = good();
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (0, 2)] {
        let mut changed = trail.clone();
        let bytes = trail.segments[from].clone();
        changed
            .segments
            .resize(trail.segments.len().max(to + 1), Vec::new());
        changed.segments[to] = bytes;
        broken(&changed.verify(&[]), "another segment");
    }
    let mut swapped = trail.clone();
    swapped.segments.swap(1, 2);
    broken(&swapped.verify(&[]), "another segment");

    let dir = trail.stored();
    fs::remove_file(dir.path().join("000001.jsonl")).unwrap();
    let keys = [trail.verifier_key()];
    broken(&verify(dir.path(), &keys, &[]), "missing");
    fs::remove_file(dir.path().join("000002.jsonl")).unwrap();
    let report = verify(dir.path(), &keys, &[]);
    holds(&report);
    assert!(!report.end_vouched_for && !report.closed);
    broken(&verify(dir.path(), &keys, &[trail.anchor()]), "contradicts");
}

/// Two histories under one key: each holds by itself, and they do not fit together.
#[test]
fn a_segment_of_another_history_under_the_same_key_does_not_fit() {
    let history = |text: &str| {
        let mut trail = Trail::new();
        trail.open("TrailOpened");
        trail.record("Note", json!({"text": text})).checkpoint();
        trail.open("TrailOpened").checkpoint();
        trail
    };
    let (mut told, other) = (history("told"), history("kept"));
    holds(&told.verify(&[told.anchor()]));
    told.segments[1] = other.segments[1].clone();
    broken(&told.verify(&[other.anchor()]), "another checkpoint");
}

#[test]
fn records_cannot_be_moved_added_or_removed() {
    let trail = good();
    let lines: Vec<&[u8]> = trail.segments[1]
        .split_inclusive(|byte| *byte == b'\n')
        .collect();
    let put = |order: Vec<usize>| {
        let mut changed = trail.clone();
        changed.segments[1] = order
            .iter()
            .flat_map(|line| lines[*line].to_vec())
            .collect();
        changed
    };
    let all: Vec<usize> = (0..lines.len()).collect();
    for line in 0..lines.len() {
        let mut removed = all.clone();
        removed.remove(line);
        broken(&put(removed).verify(&[]), "");
        let mut doubled = all.clone();
        doubled.insert(line, line);
        broken(&put(doubled).verify(&[]), "");
        if line > 0 {
            let mut swapped = all.clone();
            swapped.swap(line - 1, line);
            broken(&put(swapped).verify(&[]), "");
        }
    }
}

#[test]
fn lines_have_one_form() {
    let trail = good();
    for (because, change) in [
        (
            "neither",
            (|text| text.replacen("\"seq\":3,", "", 1)) as fn(&str) -> String,
        ),
        ("does not begin with a header", |text| {
            text.replacen("\"boot\"", "\"seq\"", 1)
        }),
        ("one form", |text| {
            text.replacen("{\"checkpoint\":\"", "{\"checkpoint\": \"", 1)
        }),
        ("not valid JSON", |text| {
            text.replacen("\"}\n{\"seq\":3", "\",\"a\":0}\n{\"seq\":3", 1)
        }),
        ("longer than 65 535", |text| {
            text.replacen("hello", &"x".repeat(70_000), 1)
        }),
    ] {
        let mut changed = trail.clone();
        let text = String::from_utf8(trail.segments[0].clone()).unwrap();
        changed.segments[0] = change(&text).into_bytes();
        assert_ne!(changed.segments[0], trail.segments[0]);
        broken(&changed.verify(&[]), because);
    }
}

/// Whatever the bytes are: an answer, never a panic, and never a vouched-for end unless only void
/// bytes changed.
#[test]
fn hostile_bytes_get_an_answer() {
    use proptest::prelude::*;
    let trail = good();
    let (keys, anchors) = ([trail.verifier_key()], [trail.anchor()]);
    let void = trail.verify(&[]).void[0].bytes as usize;
    let pieces: &[&[u8]] = &[
        b"\n",
        b"\0",
        b"{",
        b"}",
        b"\"",
        b"18446744073709551615",
        b"-1",
        b"1e99",
        b"[[[[[[[[",
        b"{\"checkpoint\":\"",
        b"RecordsLost",
        b"TailRecovered",
        b"TrailOpened",
        b"\\u0000",
        b"\xff",
    ];
    let change = (
        0..3_usize,
        any::<prop::sample::Index>(),
        0..400_usize,
        0..pieces.len() + 1,
    );
    // A failure prints the seed and the smallest case.
    proptest!(ProptestConfig::with_cases(256), |(changes in prop::collection::vec(change, 1..6))| {
        let mut hostile = trail.clone();
        for (segment, at, length, piece) in changes {
            let bytes = &mut hostile.segments[segment];
            let start = at.index(bytes.len().max(1)).min(bytes.len());
            let end = (start + length).min(bytes.len());
            let part = bytes[start..end].to_vec();
            bytes.splice(start..end, pieces.get(piece).map_or(part, |piece| piece.to_vec()));
        }
        let report = verify(hostile.stored().path(), &keys, &anchors);
        let kept = trail.segments[0].len() - void;
        let same = hostile.segments[1..] == trail.segments[1..]
            && hostile.segments[0].get(..kept) == trail.segments[0].get(..kept);
        prop_assert!(same || !report.end_vouched_for, "{}", report);
        prop_assert!(serde_json::to_string(&report).is_ok());
    });
}
