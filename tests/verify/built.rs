//! Trails made from signatures and hashes alone, and words for what a report must say.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use vram_residency::audit::{Checkpoint, Outcome, Report, VerifierKey, verify};

pub(crate) const ORIGIN: &str = "vram-residency/worker-1/0123456789abcdef";

/// A trail in the making. A leaf that stays unacknowledged is taken back by `open_segment`.
#[derive(Clone)]
pub(crate) struct Trail {
    pub(crate) key: SigningKey,
    pub(crate) origin: String,
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) segments: Vec<Vec<u8>>,
    pub(crate) seq: u64,
    /// Of the current segment: just behind the last checkpoint, how many leaves, and its text.
    pub(crate) end: usize,
    pub(crate) acknowledged: usize,
    pub(crate) note: String,
    /// What the next header says about void bytes; version 0.1.0 said nothing.
    pub(crate) void: Option<u64>,
    /// The bound of numbers that the next header states: then its run is of format 2.
    pub(crate) below: Option<u64>,
    /// The key that headers name, if it is not the one that signs.
    pub(crate) named: Option<String>,
    /// The format that headers state; those of format 1 state none.
    pub(crate) format: Option<u64>,
    /// The bound that the last header has stated.
    pub(crate) bound: Option<u64>,
}

pub(crate) fn tree(leaves: &[Vec<u8>]) -> [u8; 32] {
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
pub(crate) fn frontier(leaves: &[Vec<u8>]) -> Vec<String> {
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
    pub(crate) fn new() -> Self {
        Self::with_key(7, ORIGIN)
    }

    /// A trail whose runs are of format 2.
    pub(crate) fn of_format_2() -> Self {
        Self {
            format: Some(2),
            ..Self::new()
        }
    }

    pub(crate) fn with_key(seed: u8, origin: &str) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            origin: origin.to_owned(),
            leaves: Vec::new(),
            segments: Vec::new(),
            seq: 0,
            end: 0,
            acknowledged: 0,
            note: String::new(),
            void: None,
            below: None,
            named: None,
            format: None,
            bound: None,
        }
    }

    pub(crate) fn key_hash(&self) -> Vec<u8> {
        let public = self.key.verifying_key().to_bytes();
        Sha256::new()
            .chain_update(&self.origin)
            .chain_update([b'\n', 1])
            .chain_update(public)
            .finalize()[..4]
            .to_vec()
    }

    pub(crate) fn verifier_key(&self) -> VerifierKey {
        self.key_text().parse().unwrap()
    }

    pub(crate) fn key_text(&self) -> String {
        let mut key = vec![1];
        key.extend(self.key.verifying_key().to_bytes());
        format!(
            "{}+{}+{}",
            self.origin,
            hex::encode(self.key_hash()),
            BASE64.encode(key)
        )
    }

    pub(crate) fn sign(&self, size: usize, root: [u8; 32]) -> String {
        let body = format!("{}\n{size}\n{}\n", self.origin, BASE64.encode(root));
        let mut blob = self.key_hash();
        blob.extend(self.key.sign(body.as_bytes()).to_bytes());
        format!("{body}\n— {} {}\n", self.origin, BASE64.encode(blob))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.segments.last_mut().unwrap().extend_from_slice(bytes);
    }

    /// Writes a record with a number of its own and the event's fields.
    pub(crate) fn record_at(&mut self, seq: u64, event: &str, fields: Value) {
        let fraction = seq % 1_000_000_000;
        let mut line = format!(
            r#"{{"seq":{seq},"time":"2026-01-02T03:04:05.{fraction:09}Z","mono_us":{seq},"boot":"b0","worker":"worker-1","event":"{event}","severity":"INFO","outcome":"success""#
        );
        for (name, value) in fields.as_object().unwrap() {
            line.push_str(&format!(",\"{name}\":{value}"));
        }
        line.push('}');
        self.leaves.push(line.clone().into_bytes());
        self.write(format!("{line}\n").as_bytes());
    }

    pub(crate) fn record(&mut self, event: &str, fields: Value) -> &mut Self {
        let seq = self.seq;
        self.seq += 1;
        self.record_at(seq, event, fields);
        self
    }

    pub(crate) fn notes(&mut self, count: u64) -> &mut Self {
        for _ in 0..count {
            self.record("Note", json!({"text": "hello"}));
        }
        self
    }

    pub(crate) fn checkpoint(&mut self) -> &mut Self {
        self.note = self.sign(self.leaves.len(), tree(&self.leaves));
        let line = json!({"checkpoint": self.note}).to_string();
        self.write(format!("{line}\n").as_bytes());
        self.end = self.segments.last().unwrap().len();
        self.acknowledged = self.leaves.len();
        self
    }

    /// Begins the next segment behind the last checkpoint.
    pub(crate) fn open(&mut self, event: &str) -> &mut Self {
        self.leaves.truncate(self.acknowledged);
        let number = self.segments.len();
        let mut fields = json!({
            "segment": number,
            "first_leaf": self.acknowledged,
            "origin": self.origin,
            "key": self.named.clone().unwrap_or_else(|| self.key_text()),
        });
        if number > 0 {
            fields["previous"] = json!({
                "segment": number - 1,
                "end": self.end,
                "checkpoint": self.note,
                "frontier": frontier(&self.leaves),
            });
            let left = self.segments[number - 1].len() - self.end;
            let stated = self.format.or(self.below).map(|_| left as u64);
            if let Some(void) = self.void.or(stated) {
                fields["previous"]["void"] = json!(void);
            }
        }
        if let Some(format) = self.format.or(self.below.map(|_| 2)) {
            fields["format"] = json!(format);
        }
        // Room enough for what comes, unless a test has a bound of its own.
        let roomy = (self.format == Some(2)).then_some(self.seq + 100);
        self.bound = self.below.or(roomy.max(self.bound));
        if let Some(below) = self.bound.filter(|_| fields["format"] == 2) {
            fields["numbers_below"] = json!(below);
        }
        self.segments.push(Vec::new());
        self.record(event, fields)
    }

    /// The last record of a run, with what format 2 wants it to say.
    pub(crate) fn close(&mut self) -> &mut Self {
        let offset = self.segments.last().unwrap().len();
        let fields = json!({"live_shards": 0, "live": [], "offset": offset});
        self.record("TrailClosed", fields).checkpoint()
    }

    /// The process ends without closing. The next number is that of the next run, and what is
    /// returned the highest that this one may have given.
    pub(crate) fn kill(&mut self) -> u64 {
        self.seq = self.bound.take().unwrap_or(self.seq);
        self.seq - 1
    }

    /// Replaces the last record, which no checkpoint covers yet, by this line.
    pub(crate) fn instead(&mut self, line: &[u8]) -> &mut Self {
        let last = self.leaves.pop().unwrap();
        let segment = self.segments.last_mut().unwrap();
        segment.truncate(segment.len() - last.len() - 1);
        self.leaves.push(line.to_vec());
        self.write(&[line, b"\n"].concat());
        self
    }

    /// Announces another key; what is signed from here on is signed with it.
    pub(crate) fn change_key(&mut self, seed: u8) -> &mut Self {
        let mut next = self.clone();
        next.key = SigningKey::from_bytes(&[seed; 32]);
        let keys = json!({"previous_key": self.key_text(), "key": next.key_text()});
        self.record("KeyChanged", keys).checkpoint();
        self.key = next.key;
        self
    }

    pub(crate) fn recovered(&mut self, highest_seq: u64) -> &mut Self {
        let left = self.segments.len() - 2;
        let header: Value = serde_json::from_slice(self.leaves.last().unwrap()).unwrap();
        let end = header["previous"]["end"].as_u64().unwrap();
        let bytes = self.segments[left].len() as u64 - end;
        self.record(
            "TailRecovered",
            json!({"segment": left, "void_from": end, "void_bytes": bytes, "void_records": 0, "highest_seq": highest_seq}),
        )
    }

    pub(crate) fn lost(&mut self, first: u64, last: u64) -> &mut Self {
        self.record(
            "RecordsLost",
            json!({"first": first, "last": last, "count": last - first + 1, "cause": "queue_full"}),
        )
    }

    pub(crate) fn anchor(&self) -> Checkpoint {
        self.note.parse().unwrap()
    }

    pub(crate) fn store(&self, dir: &Path) {
        for (number, bytes) in self.segments.iter().enumerate() {
            fs::write(dir.join(format!("{number:06}.jsonl")), bytes).unwrap();
        }
    }

    pub(crate) fn stored(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.store(dir.path());
        dir
    }

    pub(crate) fn verify(&self, anchors: &[Checkpoint]) -> Report {
        verify(self.stored().path(), &[self.verifier_key()], anchors)
    }
}

/// Three segments: a first run, a rotation, and a run that was closed. The first one ends in void
/// bytes: two records and a torn one, written again (with their numbers) in the next segment.
pub(crate) fn good() -> Trail {
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
pub(crate) fn small() -> Trail {
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

pub(crate) fn words(report: &Report) -> String {
    report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

#[track_caller]
pub(crate) fn broken(report: &Report, because: &str) {
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
    assert!(!report.end_vouched_for);
    assert!(words(report).contains(because), "{report}");
}

#[track_caller]
pub(crate) fn holds(report: &Report) {
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}
