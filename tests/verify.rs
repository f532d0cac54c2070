//! What the check of a trail must find, and what it must not make up.
//!
//! The trails are made here, from signatures and hashes alone: the tree by the recursive definition
//! of RFC 6962, which the library never uses. Nothing comes from the library's writer.
//! `tests/verify_trail.py` has the last word on what holds: it shares no code with either.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use vram_residency::audit::{AnchorState, Checkpoint, Outcome, Report, VerifierKey, verify};

const ORIGIN: &str = "vram-residency/worker-1/0123456789abcdef";

/// A trail in the making. A leaf that stays unacknowledged is taken back by `open_segment`.
#[derive(Clone)]
struct Trail {
    key: SigningKey,
    origin: String,
    leaves: Vec<Vec<u8>>,
    segments: Vec<Vec<u8>>,
    seq: u64,
    /// Of the current segment: just behind the last checkpoint, how many leaves, and its text.
    end: usize,
    acknowledged: usize,
    note: String,
}

fn tree(leaves: &[Vec<u8>]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => Sha256::new()
            .chain_update([0])
            .chain_update(leaf)
            .finalize()
            .into(),
        _ => {
            let mut split = 1;
            while split * 2 < leaves.len() {
                split *= 2;
            }
            Sha256::new()
                .chain_update([1])
                .chain_update(tree(&leaves[..split]))
                .chain_update(tree(&leaves[split..]))
                .finalize()
                .into()
        }
    }
}

/// The roots of the maximal complete subtrees, largest first.
fn frontier(leaves: &[Vec<u8>]) -> Vec<String> {
    let mut rest = leaves;
    let mut nodes = Vec::new();
    for bit in (0..32).rev() {
        if leaves.len() >> bit & 1 == 1 {
            let (part, behind) = rest.split_at(1 << bit);
            nodes.push(BASE64.encode(tree(part)));
            rest = behind;
        }
    }
    nodes
}

impl Trail {
    fn new() -> Self {
        Self::with_key(7, ORIGIN)
    }

    fn with_key(seed: u8, origin: &str) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            origin: origin.to_owned(),
            leaves: Vec::new(),
            segments: Vec::new(),
            seq: 0,
            end: 0,
            acknowledged: 0,
            note: String::new(),
        }
    }

    fn key_hash(&self) -> Vec<u8> {
        let public = self.key.verifying_key().to_bytes();
        Sha256::new()
            .chain_update(&self.origin)
            .chain_update([b'\n', 1])
            .chain_update(public)
            .finalize()[..4]
            .to_vec()
    }

    fn verifier_key(&self) -> VerifierKey {
        self.key_text().parse().unwrap()
    }

    fn key_text(&self) -> String {
        let mut key = vec![1];
        key.extend(self.key.verifying_key().to_bytes());
        format!(
            "{}+{}+{}",
            self.origin,
            hex::encode(self.key_hash()),
            BASE64.encode(key)
        )
    }

    fn sign(&self, size: usize, root: [u8; 32]) -> String {
        let body = format!("{}\n{size}\n{}\n", self.origin, BASE64.encode(root));
        let mut blob = self.key_hash();
        blob.extend(self.key.sign(body.as_bytes()).to_bytes());
        format!("{body}\n— {} {}\n", self.origin, BASE64.encode(blob))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.segments.last_mut().unwrap().extend_from_slice(bytes);
    }

    /// Writes a record with a number of its own and the event's fields.
    fn record_at(&mut self, seq: u64, event: &str, fields: Value) {
        let mut line = format!(
            r#"{{"seq":{seq},"time":"2026-01-02T03:04:05.{seq:09}Z","mono_us":{seq},"boot":"b0","worker":"worker-1","event":"{event}","severity":"INFO","outcome":"success""#
        );
        for (name, value) in fields.as_object().unwrap() {
            line.push_str(&format!(",\"{name}\":{value}"));
        }
        line.push('}');
        self.leaves.push(line.clone().into_bytes());
        self.write(format!("{line}\n").as_bytes());
    }

    fn record(&mut self, event: &str, fields: Value) -> &mut Self {
        let seq = self.seq;
        self.seq += 1;
        self.record_at(seq, event, fields);
        self
    }

    fn notes(&mut self, count: u64) -> &mut Self {
        for _ in 0..count {
            self.record("Note", json!({"text": "hello"}));
        }
        self
    }

    fn checkpoint(&mut self) -> &mut Self {
        self.note = self.sign(self.leaves.len(), tree(&self.leaves));
        let line = json!({"checkpoint": self.note}).to_string();
        self.write(format!("{line}\n").as_bytes());
        self.end = self.segments.last().unwrap().len();
        self.acknowledged = self.leaves.len();
        self
    }

    /// Begins the next segment behind the last checkpoint.
    fn open(&mut self, event: &str) -> &mut Self {
        self.leaves.truncate(self.acknowledged);
        let number = self.segments.len();
        let mut fields = json!({
            "segment": number,
            "first_leaf": self.acknowledged,
            "origin": self.origin,
            "key": self.key_text(),
        });
        if number > 0 {
            fields["previous"] = json!({
                "segment": number - 1,
                "end": self.end,
                "checkpoint": self.note,
                "frontier": frontier(&self.leaves),
            });
        }
        self.segments.push(Vec::new());
        self.record(event, fields)
    }

    fn recovered(&mut self, highest_seq: u64) -> &mut Self {
        let left = self.segments.len() - 2;
        let header: Value = serde_json::from_slice(self.leaves.last().unwrap()).unwrap();
        let end = header["previous"]["end"].as_u64().unwrap();
        let bytes = self.segments[left].len() as u64 - end;
        self.record(
            "TailRecovered",
            json!({"segment": left, "void_from": end, "void_bytes": bytes, "void_records": 0, "highest_seq": highest_seq}),
        )
    }

    fn lost(&mut self, first: u64, last: u64) -> &mut Self {
        self.record(
            "RecordsLost",
            json!({"first": first, "last": last, "count": last - first + 1, "cause": "queue_full"}),
        )
    }

    fn anchor(&self) -> Checkpoint {
        self.note.parse().unwrap()
    }

    fn store(&self, dir: &Path) {
        for (number, bytes) in self.segments.iter().enumerate() {
            fs::write(dir.join(format!("{number:06}.jsonl")), bytes).unwrap();
        }
    }

    fn stored(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.store(dir.path());
        dir
    }

    fn verify(&self, anchors: &[Checkpoint]) -> Report {
        verify(self.stored().path(), &[self.verifier_key()], anchors)
    }
}

/// Three segments: a first run, a rotation, and a run that was closed. The first one ends in void
/// bytes: two records and a torn one, written again (with their numbers) in the next segment.
fn good() -> Trail {
    let mut trail = Trail::new();
    trail
        .open("TrailOpened")
        .checkpoint()
        .notes(2)
        .checkpoint()
        .notes(1)
        .checkpoint();
    trail.notes(2);
    trail.write(br#"{"seq":6,"ti"#);
    trail.seq = 7;
    trail.open("SegmentOpened");
    trail.record_at(4, "Note", json!({"text": "again"}));
    trail.record_at(5, "Note", json!({"text": "again"}));
    trail.record_at(6, "Note", json!({"text": "again"}));
    trail.record(
        "SegmentPoisoned",
        json!({"segment": 0, "operation": "write", "cause": "EIO"}),
    );
    trail.checkpoint().notes(3).checkpoint();
    trail.open("TrailOpened").checkpoint().notes(1).checkpoint();
    trail
        .record("TrailClosed", json!({"live_shards": 0, "live": []}))
        .checkpoint();
    trail
}

/// Two segments, the first with void bytes: small enough to try every bit.
fn small() -> Trail {
    let mut trail = Trail::with_key(7, "o");
    trail
        .open("TrailOpened")
        .notes(1)
        .checkpoint()
        .notes(1)
        .checkpoint();
    trail.write(b"{\"seq\"");
    trail.open("TrailOpened").recovered(2).checkpoint();
    trail.record("TrailClosed", json!({})).checkpoint();
    trail
}

fn words(report: &Report) -> String {
    report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

#[track_caller]
fn broken(report: &Report, because: &str) {
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
    assert!(!report.end_vouched_for);
    assert!(words(report).contains(because), "{report}");
}

#[track_caller]
fn holds(report: &Report) {
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}

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

/// Every bit, of every acknowledged byte.
#[test]
fn a_flipped_bit_never_passes_with_an_anchor() {
    let trail = small();
    let dir = trail.stored();
    let (keys, anchors) = ([trail.verifier_key()], [trail.anchor()]);
    let last = trail.segments.len() - 1;
    let void = trail.segments[0].len() - verify(dir.path(), &keys, &[]).void[0].bytes as usize;
    for (number, bytes) in trail.segments.iter().enumerate() {
        let path = dir.path().join(format!("{number:06}.jsonl"));
        for bit in 0..bytes.len() * 8 {
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
        let doubled = put(doubled).verify(&[]);
        if line + 1 < lines.len() {
            broken(&doubled, "");
        } else {
            // Behind the end that the next header states: void, and reported.
            assert_eq!(doubled.void[1].bytes, lines[line].len() as u64);
        }
        if line > 0 {
            let mut swapped = all.clone();
            swapped.swap(line - 1, line);
            broken(&put(swapped).verify(&[]), "");
        }
    }
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
    let impostor = Trail::with_key(8, ORIGIN);
    broken(
        &verify(dir.path(), &[impostor.verifier_key()], &[]),
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

/// A trail with one segment, whose records have these numbers.
fn numbered(numbers: &[u64]) -> Trail {
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
fn killed() -> Trail {
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

fn script(dir: &Path, trail: &Trail, anchor: Option<&str>) -> (bool, String) {
    let anchor_file = dir.join("anchor.txt");
    let mut command = Command::new("python3");
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verify_trail.py"))
        .arg(dir)
        .arg(trail.key_text());
    if let Some(anchor) = anchor {
        fs::write(&anchor_file, anchor).unwrap();
        command.arg(&anchor_file);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// The script shares nothing with the library, and must come to the same answer.
#[test]
fn the_script_agrees() {
    let mut killed = killed();
    killed.recovered(4).notes(1).checkpoint();
    let mut tail = good();
    tail.notes(1);
    let mut damaged = good();
    let at = damaged.segments[1].len() / 2;
    damaged.segments[1][at] ^= 1;
    let mut swapped = good();
    swapped.segments.swap(0, 1);
    let mut forged = Trail::with_key(8, ORIGIN);
    forged.open("TrailOpened").checkpoint();
    forged.key = SigningKey::from_bytes(&[7; 32]);
    let mut gap = numbered(&[1, 3]);
    gap.checkpoint();
    let mut longer = good();
    longer.note = longer.sign(99, [1; 32]);
    for (name, trail) in [
        ("good", good()),
        ("killed", killed),
        ("tail", tail),
        ("damaged", damaged),
        ("swapped", swapped),
        ("forged", forged),
        ("gap", gap),
        ("longer anchor", longer),
    ] {
        let dir = trail.stored();
        let report = trail.verify(&[trail.anchor()]);
        let (ok, text) = script(dir.path(), &trail, Some(&trail.note));
        assert_eq!(
            ok,
            report.outcome == Outcome::Holds,
            "{name}: {text}\n{report}"
        );
        assert!(
            text.starts_with(if ok { "HOLDS" } else { "BROKEN" }),
            "{name}: {text}"
        );
    }
}
