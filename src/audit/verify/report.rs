//! What a check of a trail found, as values and as text.
//!
//! A report never says more than was checked: there is no word in it for a whole trail whose end
//! nobody vouches for. This module knows nothing of how the findings were made.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::runs::{KilledRun, Lacks, Runs};

/// The most entries in each list of a [`Report`].
pub(super) const MAX_LISTED: usize = 256;

/// What came out of the check of a trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Something contradicts the signed checkpoints, the anchors or the numbers. See
    /// [`Report::findings`].
    Broken,
    /// Everything that was there holds. What that does not say, the report's other fields do.
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
    /// Where the line starts, in bytes from the segment's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The line in its segment, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The leaves that cannot be vouched for because of it: the first, and the one behind the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<[u64; 2]>,
    /// What was found.
    pub words: String,
}

/// What an anchor says about the trail.
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
    /// The leaves there are absent, damaged, or were not read.
    NotComparable,
    /// The trail has another root at the anchor's size, or ends before it, and a header declares this
    /// checkpoint void: signed, but never acknowledged, since its write failed or a crash tore it.
    ///
    /// A writer hands out no checkpoint before its sync has succeeded. So an anchor that has it from
    /// the worker, its log, a receipt or `vram-audit anchor` shows that acknowledged records are gone.
    /// Whoever holds the trail's key can declare anything void. Whoever can write to its disk can make an
    /// opening that asks no anchor take an acknowledged end for a torn one.
    Voided,
}

/// An anchor, and what became of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AnchorReport {
    /// The trail that the anchor names.
    pub origin: String,
    /// How many leaves it covers.
    pub size: u64,
    /// What it says about this trail.
    pub state: AnchorState,
    /// The segment whose header declares it void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voided_by: Option<u64>,
}

/// A verifier key, and what it vouches for: segments one behind the other whose headers name it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeyReport {
    /// The verifier key, as the headers name it; of one that was not given, at most 512 bytes.
    pub key: String,
    /// The first and the last of the segments.
    pub segments: [u64; 2],
    /// The leaves under its checkpoints, but for those that a finding names: the first, and the one
    /// behind the last. None if the key was not given: then nothing in these segments was checked.
    pub leaves: Option<[u64; 2]>,
}

/// Bytes that no checkpoint acknowledges.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Unacknowledged {
    /// The segment they stand in.
    pub segment: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Whole records among them.
    pub records: u64,
}

/// What [`verify`](super::verify) found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The answer in one word. The other fields say what it covers.
    pub outcome: Outcome,
    /// Why something was not checked.
    pub not_checked: Vec<String>,
    /// What is wrong, at most 256 entries.
    pub findings: Vec<Finding>,
    /// How many findings there were.
    pub findings_total: u64,
    /// Which key vouches for what, in the order of the segments, at most 256 entries.
    pub keys: Vec<KeyReport>,
    /// The trail's origin, if a given key has signed for it.
    pub origin: Option<String>,
    /// How many segments are there.
    pub segments: u64,
    /// The number of the first segment that is there.
    pub first_segment: Option<u64>,
    /// Segments before the first one are absent, so the check begins at `first_leaf`.
    pub older_segments_absent: bool,
    /// The first leaf that was checked.
    pub first_leaf: u64,
    /// The size of the tree at the last checkpoint that matches: leaves of absent segments count.
    pub leaves: u64,
    /// How many records are acknowledged by a checkpoint that matches.
    pub records: u64,
    /// The lowest number among them.
    pub first_seq: Option<u64>,
    /// The highest number among them.
    pub last_seq: Option<u64>,
    /// The earliest time among them, as the record has it. Whether clocks were right is not checked.
    pub first_time: Option<String>,
    /// The latest time among them.
    pub last_time: Option<String>,
    /// How many of them are `SealVerificationFailed`. A trail that holds can be full of them.
    pub incidents: u64,
    /// The last acknowledged record is `TrailClosed`, and nothing follows it.
    pub closed: bool,
    /// The outcome is [`Outcome::Holds`], and an anchor confirms the last checkpoint. Without it,
    /// the end may have been cut off.
    pub end_vouched_for: bool,
    /// How many records are lost by the trail's own account (`RecordsLost`).
    pub records_lost: u64,
    /// Those of them that had no number.
    pub lost_unnumbered: u64,
    /// Their numbers, first and last of each range, at most 256 entries.
    pub lost: Vec<[u64; 2]>,
    /// Numbers that processes gave, and that were never acknowledged before they were killed.
    pub never_acknowledged: u64,
    /// How runs of the worker ended.
    pub runs: Runs,
    /// The runs that were killed, the newest 256 of them.
    pub kills: Vec<KilledRun>,
    /// The newest one before those that lacks something.
    #[serde(skip)]
    pub(super) unlisted_kill: Option<KilledRun>,
    /// What stands behind the last checkpoint of the last segment: torn or altered, only an anchor
    /// can tell.
    pub tail: Option<Unacknowledged>,
    /// Void bytes of the segments before the last one, at most 256 entries.
    pub void: Vec<Unacknowledged>,
    /// All void bytes.
    pub void_bytes: u64,
    /// The anchors, in the order given; of more than 256, those that agree with the trail are left out first.
    pub anchors: Vec<AnchorReport>,
    /// How many of them are [`AnchorState::Voided`].
    pub voided_anchors: u64,
    /// The text of the last checkpoint that matches. While a worker writes to the trail, nobody else
    /// knows whether the sync of this one has succeeded: to keep one as an anchor, take that of
    /// [`newest_checkpoint`](crate::audit::newest_checkpoint).
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

    /// Adds an anchor. There may be hundreds of thousands that agree: one that does not takes the place
    /// of one of them.
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

    /// Adds a segment to what `key` vouches for, or would if it had been given.
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

    /// Which segments were not checked for want of their key, in words. `total` is how many: the
    /// list of keys may have been full when some of them came.
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

/// Adds to a list that must not grow without end.
pub(super) fn push<T>(list: &mut Vec<T>, entry: T) {
    if list.len() < MAX_LISTED {
        list.push(entry);
    }
}

/// Text that may quote the trail, with its control characters escaped: it must not be able to write a
/// line of its own into a report.
struct InLine<'a>(&'a str);

impl fmt::Display for InLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", character.escape_debug())
            } else {
                f.write_char(character)
            }
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(segment) = self.segment {
            write!(f, "segment {segment:06}")?;
            if let (Some(line), Some(offset)) = (self.line, self.offset) {
                write!(f, ", line {line} (byte {offset})")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", InLine(&self.words))?;
        match self.leaves {
            Some([first, end]) if first < end => {
                write!(f, "; leaves {first} up to {end} are not vouched for")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "BROKEN",
            Self::Holds => "HOLDS",
            Self::NotChecked => "NOT CHECKED",
        })
    }
}

impl fmt::Display for AnchorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "confirmed",
            Self::Contradicts => "CONTRADICTS the trail",
            Self::Foreign => "of another trail or key",
            Self::NotComparable => "not comparable: the leaves there were not checked",
            Self::Voided => "DECLARED VOID by the trail, which contradicts it",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.outcome)?;
        for reason in &self.not_checked {
            writeln!(f, "  not checked: {}", InLine(reason))?;
        }
        for finding in &self.findings {
            writeln!(f, "  {finding}")?;
        }
        let shown = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        if self.findings_total > shown {
            writeln!(
                f,
                "  and {} more",
                self.findings_total.saturating_sub(shown)
            )?;
        }
        if let Some(origin) = &self.origin {
            writeln!(f, "trail:    {}", InLine(origin))?;
        }
        self.write_extent(f)?;
        self.write_losses(f)?;
        self.write_end(f)
    }
}

impl Report {
    fn write_extent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.first_segment {
            write!(f, "segments: {} from {first:06}", self.segments)?;
            if self.older_segments_absent {
                write!(
                    f,
                    "; OLDER SEGMENTS ARE ABSENT: checked from leaf {} on",
                    self.first_leaf
                )?;
            }
            writeln!(f)?;
        }
        for entry in &self.keys {
            if let Some([start, end]) = entry.leaves {
                let [first, last] = entry.segments;
                writeln!(
                    f,
                    "key:      {} vouches for leaves {start} up to {end}, segments {first:06} to {last:06}",
                    InLine(&entry.key)
                )?;
            }
        }
        write!(f, "records:  {} acknowledged", self.records)?;
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            write!(f, ", numbers {first} to {last}")?;
        }
        writeln!(f, "; {} leaves", self.leaves)?;
        if let (Some(first), Some(last)) = (&self.first_time, &self.last_time) {
            writeln!(f, "time:     {first} to {last}")?;
        }
        writeln!(f, "incidents: {} (SealVerificationFailed)", self.incidents)
    }

    fn write_losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.records_lost > 0 {
            write!(
                f,
                "lost:     {} records, by the trail's own account:",
                self.records_lost
            )?;
            for [first, last] in &self.lost {
                write!(f, " {first}-{last}")?;
            }
            if self.lost_unnumbered > 0 {
                write!(f, ", {} without a number", self.lost_unnumbered)?;
            }
            writeln!(f)?;
        }
        self.write_kills(f)?;
        for void in &self.void {
            writeln!(
                f,
                "void:     {} bytes ({} records) in segment {:06}, never acknowledged",
                void.bytes, void.records, void.segment
            )?;
        }
        Ok(())
    }

    fn write_kills(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Runs { closed, killed } = self.runs;
        if killed > 0 {
            writeln!(f, "runs:     {closed} closed, {killed} KILLED")?;
        }
        let listed = u64::try_from(self.kills.len()).unwrap_or(u64::MAX);
        if killed > listed {
            let earlier = killed.saturating_sub(listed);
            writeln!(f, "killed:   {earlier} earlier runs, not listed")?;
        }
        for kill in &self.kills {
            write!(f, "killed:   in segment {:06}, ", kill.segment)?;
            if let (Some(seq), Some(time)) = (kill.last_seq, &kill.last_time) {
                write!(f, "between record {seq} ({time}) and ")?;
            } else {
                f.write_str("before ")?;
            }
            write!(f, "record {} ({})", kill.next_seq, kill.next_time)?;
            if let Some(records) = kill.records_at_most {
                write!(f, ": at most {records} numbered records are missing")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tail) = self.tail {
            writeln!(
                f,
                "tail:     {} bytes ({} records) behind the last checkpoint are not acknowledged; \
                 torn or altered: only an anchor can tell",
                tail.bytes, tail.records
            )?;
        }
        for anchor in &self.anchors {
            writeln!(f, "anchor:   at {} leaves: {}", anchor.size, anchor.state)?;
            if let Some(segment) = anchor.voided_by {
                writeln!(
                    f,
                    "          segment {segment:06} says that this checkpoint was signed and never \
                     acknowledged, as after a failed write or a crash. A worker hands out no such \
                     checkpoint: if the anchor has it from the worker, its log, a receipt or \
                     `vram-audit anchor`, acknowledged records are gone. Then whoever holds the key \
                     has replaced them, or whoever can write to the disk has damaged them or put \
                     their segment aside before the trail was opened again. Ask where it comes from"
                )?;
            }
        }
        writeln!(
            f,
            "end:      {}, {}",
            if self.closed {
                "closed properly"
            } else {
                "NOT closed properly"
            },
            if self.end_vouched_for {
                "vouched for by an anchor"
            } else {
                "NOT VOUCHED FOR: without an anchor of the last checkpoint nobody can tell \
                 whether the end was cut off"
            }
        )
    }
}
