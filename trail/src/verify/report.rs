//! The result of the check of a trail, as values and as text.
//!
//! A report never claims more than was checked: it has no word for a whole trail whose end no
//! anchor vouches for. This module does not know how the findings were made.

use serde::Serialize;

use super::runs::{KilledRun, Lacks, Runs};

mod text;

/// The most entries in each list of a [`Report`].
pub(super) const MAX_LISTED: usize = 256;

/// The outcome of the check of a trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Something contradicts the signed checkpoints, the anchors or the numbers. See
    /// [`Report::findings`].
    Broken,
    /// Everything that was read holds. The report's other fields state what this does not cover.
    Holds,
    /// There was nothing to check, or something could not be read. See [`Report::not_checked`].
    NotChecked,
}

/// Something in the trail that must not be there, or is missing.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The number of the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u64>,
    /// The offset of the line, in bytes from the segment's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The number of the line in its segment, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The leaves that cannot be vouched for because of it: the first one, and the one behind the
    /// last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<[u64; 2]>,
    /// The finding in words.
    pub words: String,
}

/// How an anchor compares with the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnchorState {
    /// The trail has the anchor's root at its size.
    Confirmed,
    /// The trail has another root at the anchor's size, or ends before it.
    Contradicts,
    /// The anchor names another origin than the trail, or is not signed by a given key.
    Foreign,
    /// The leaves at its size are absent, damaged, or were not read.
    NotComparable,
    /// The trail has another root at the anchor's size, or ends before it, and a header declares
    /// this checkpoint void: signed, but never acknowledged, since its write failed or a crash tore
    /// it.
    ///
    /// A writer hands out no checkpoint before its sync has succeeded. So
    /// acknowledged records are gone if the anchor got it from the process, its log, a receipt or
    /// `vram-audit anchor`. The holder of the trail's key can declare any checkpoint void. A process that can
    /// write to its disk can make an opening that asks no anchor take an acknowledged end for a
    /// torn one.
    Voided,
}

/// An anchor, and the result of its comparison.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AnchorReport {
    /// The trail that the anchor names.
    pub origin: String,
    /// The number of leaves it covers.
    pub size: u64,
    /// The result for this trail.
    pub state: AnchorState,
    /// The segment whose header declares it void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voided_by: Option<u64>,
}

/// A verifier key, and what it vouches for: consecutive segments whose headers name it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeyReport {
    /// The verifier key, as the headers name it. At most 512 bytes of a key that was not given.
    pub key: String,
    /// The first and the last of the segments.
    pub segments: [u64; 2],
    /// The leaves under its checkpoints, except those that a finding names: the first one, and the
    /// one behind the last. `None` if the key was not given: then nothing in these segments was
    /// checked.
    pub leaves: Option<[u64; 2]>,
}

/// Bytes that no checkpoint acknowledges.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Unacknowledged {
    /// The segment that holds them.
    pub segment: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The number of whole records among them.
    pub records: u64,
}

/// The result of [`verify`](super::verify).
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The result in one word. The other fields state what it covers.
    pub outcome: Outcome,
    /// The reasons why parts were not checked.
    pub not_checked: Vec<String>,
    /// The findings, at most 256 entries.
    pub findings: Vec<Finding>,
    /// The number of findings.
    pub findings_total: u64,
    /// The keys and what they vouch for, in the order of the segments, at most 256 entries.
    pub keys: Vec<KeyReport>,
    /// The trail's origin, if a given key has signed for it.
    pub origin: Option<String>,
    /// The number of segments on disk.
    pub segments: u64,
    /// The number of the first segment on disk.
    pub first_segment: Option<u64>,
    /// Segments before the first one are absent, so the check begins at `first_leaf`.
    pub older_segments_absent: bool,
    /// The first leaf that was checked.
    pub first_leaf: u64,
    /// The size of the tree at the last checkpoint that matches: leaves of absent segments count.
    pub leaves: u64,
    /// The number of records that a matching checkpoint acknowledges.
    pub records: u64,
    /// The lowest number among these records.
    pub first_seq: Option<u64>,
    /// The highest number among these records.
    pub last_seq: Option<u64>,
    /// The earliest time among these records, as they state it. Whether clocks were right is not
    /// checked.
    pub first_time: Option<String>,
    /// The latest time among these records.
    pub last_time: Option<String>,
    /// The number of `SealVerificationFailed` among these records. A trail that holds can be full
    /// of them.
    pub incidents: u64,
    /// The last acknowledged record is `TrailClosed`, and nothing follows it.
    pub closed: bool,
    /// The outcome is [`Outcome::Holds`], and an anchor confirms the last checkpoint. If false, the
    /// end may have been cut off.
    pub end_vouched_for: bool,
    /// The number of lost records by the trail's own account (`RecordsLost`).
    pub records_lost: u64,
    /// The number of lost records without a number.
    pub lost_unnumbered: u64,
    /// The lost numbers, first and last of each range, at most 256 entries.
    pub lost: Vec<[u64; 2]>,
    /// The number of record numbers that killed processes had given and that were never
    /// acknowledged.
    pub never_acknowledged: u64,
    /// How the runs ended.
    pub runs: Runs,
    /// The killed runs, the newest 256 of them.
    pub kills: Vec<KilledRun>,
    /// The newest killed run that lacks something and is not in that list.
    #[serde(skip)]
    pub(super) unlisted_kill: Option<KilledRun>,
    /// The bytes behind the last checkpoint of the last segment. Only an anchor can tell whether
    /// they are torn or altered.
    pub tail: Option<Unacknowledged>,
    /// Void bytes of the segments before the last one, at most 256 entries.
    pub void: Vec<Unacknowledged>,
    /// The number of all void bytes.
    pub void_bytes: u64,
    /// The anchors, in the order given. Of more than 256, those that agree with the trail are left
    /// out first.
    pub anchors: Vec<AnchorReport>,
    /// The number of anchors that are [`AnchorState::Voided`].
    pub voided_anchors: u64,
    /// The text of the last matching checkpoint. While a process writes to the trail, only the
    /// writer knows whether the sync of this checkpoint succeeded. To keep one as an anchor, use
    /// [`newest_checkpoint`](crate::newest_checkpoint).
    pub last_checkpoint: Option<String>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            outcome: Outcome::NotChecked,
            not_checked: Vec::new(),
            findings: Vec::new(),
            findings_total: 0,
            keys: Vec::new(),
            origin: None,
            segments: 0,
            first_segment: None,
            older_segments_absent: false,
            first_leaf: 0,
            leaves: 0,
            records: 0,
            first_seq: None,
            last_seq: None,
            first_time: None,
            last_time: None,
            incidents: 0,
            closed: false,
            end_vouched_for: false,
            records_lost: 0,
            lost: Vec::new(),
            lost_unnumbered: 0,
            never_acknowledged: 0,
            runs: Runs::default(),
            kills: Vec::new(),
            unlisted_kill: None,
            tail: None,
            void: Vec::new(),
            void_bytes: 0,
            anchors: Vec::new(),
            voided_anchors: 0,
            last_checkpoint: None,
        }
    }

    pub(super) fn find(&mut self, finding: Finding) {
        self.findings_total = self.findings_total.saturating_add(1);
        push(&mut self.findings, finding);
    }

    /// Adds an anchor. There may be hundreds of thousands that agree; one that does not agree takes
    /// the place of one that does.
    pub(super) fn anchor(&mut self, anchor: AnchorReport) {
        let disagrees = |anchor: &AnchorReport| {
            matches!(anchor.state, AnchorState::Contradicts | AnchorState::Voided)
        };
        if self.anchors.len() >= MAX_LISTED {
            let agrees = |anchor: &AnchorReport| !disagrees(anchor);
            match self.anchors.iter().rposition(agrees) {
                Some(place) if disagrees(&anchor) => drop(self.anchors.remove(place)),
                _ => return,
            }
        }
        self.anchors.push(anchor);
    }

    pub(super) fn kill(&mut self, kill: KilledRun) {
        if self.kills.len() >= MAX_LISTED {
            let oldest = self.kills.remove(0);
            if oldest.lacks() != Lacks::Nothing {
                self.unlisted_kill = Some(oldest);
            }
        }
        self.kills.push(kill);
    }

    /// Adds a segment to what `key` vouches for, or would vouch for if it had been given.
    pub(super) fn key(&mut self, key: &str, segment: u64, leaves: Option<[u64; 2]>) {
        if let Some(KeyReport {
            key: last,
            segments: [_, end],
            leaves: vouched,
        }) = self.keys.last_mut()
            && last == key
            && end.checked_add(1) == Some(segment)
            && vouched.is_some() == leaves.is_some()
        {
            *end = segment;
            if let (Some([_, end]), Some([_, new])) = (vouched, leaves) {
                *end = new;
            }
            return;
        }
        let entry = KeyReport {
            key: key.to_owned(),
            segments: [segment, segment],
            leaves,
        };
        push(&mut self.keys, entry);
    }

    /// Returns, in words, which segments were not checked because their key was not given. `total`
    /// is their number: the list of keys may have been full before the last of them.
    pub(super) fn not_given(&self, total: u64) -> Vec<String> {
        let mut unlisted = total;
        let mut words = Vec::new();
        for entry in self.keys.iter().filter(|entry| entry.leaves.is_none()) {
            let ([first, last], key) = (entry.segments, &entry.key);
            let listed = last.saturating_sub(first).saturating_add(1);
            unlisted = unlisted.saturating_sub(listed);
            words.push(format!(
                "segments {first:06} to {last:06} name the key {key}, which was not given"
            ));
        }
        if unlisted > 0 {
            let more = format!("{unlisted} more segments name a key that was not given");
            words.insert(0, more);
        }
        words
    }
}

/// Adds to a list of bounded length.
pub(super) fn push<T>(list: &mut Vec<T>, entry: T) {
    if list.len() < MAX_LISTED {
        list.push(entry);
    }
}
