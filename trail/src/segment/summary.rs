//! What was found in one segment: as the reader of segments hands it to whoever compares them.
//!
//! Values only. How they were found is in the reader.

use std::ops::Range;

use super::super::checkpoint::{Checkpoint, encode_nodes};
use super::super::event::Previous;
use super::super::merkle::Frontier;
use super::line::Header;

/// Where a line stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Place {
    /// Bytes before the line.
    pub(crate) offset: u64,
    /// Counted from 1.
    pub(crate) line: u64,
    /// Leaves before the line, in the whole trail.
    pub(crate) leaf: u64,
}

/// Something that no crash explains.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Damage {
    pub(crate) place: Place,
    /// The leaves that no matching checkpoint vouches for because of it.
    pub(crate) leaves: Range<u64>,
    pub(crate) words: &'static str,
}

/// What stands behind the last matching checkpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Behind {
    pub(crate) bytes: u64,
    /// Lines that are records, whole ones only.
    pub(crate) records: u64,
    /// Lines in the form of a checkpoint, signed or not.
    pub(crate) checkpoints: u64,
    /// Checkpoints that are validly signed.
    pub(crate) signed: u64,
    /// One of the checkpoints is in its one form.
    pub(crate) whole: bool,
    /// Bytes stand behind a checkpoint: more than one batch, where one may be unacknowledged.
    pub(crate) many_batches: bool,
}

/// What one segment holds.
#[derive(Debug)]
pub(crate) struct SegmentSummary {
    /// The first record, if it is a header.
    pub(crate) header: Option<Header>,
    /// The offset just behind the last matching checkpoint; 0 if there is none.
    pub(crate) end: u64,
    /// The same of the matching checkpoint before that one. A writer writes behind a checkpoint only
    /// once that is on the disk: while there may be a writer, so far the segment is durable.
    pub(crate) settled: u64,
    /// The checkpoint at `end`.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The tree there.
    pub(crate) frontier: Frontier,
    /// The highest number in any whole line, acknowledged or not. Unacknowledged lines can say
    /// anything: who counts on from here must expect the largest number there is.
    pub(crate) highest_seq: Option<u64>,
    /// What stands behind `end`.
    pub(crate) behind: Behind,
    /// Whether the key that the header names is a given one.
    pub(crate) key_is_given: bool,
    /// Checkpoints that a given key has signed, matching or not, that of the header or another.
    pub(crate) signed: u64,
    /// The next segment's key, if the last acknowledged record is `KeyChanged`.
    pub(crate) next_key: Option<String>,
    /// How many void bytes the segment before may have; none if one batch is all that is known.
    pub(crate) void_before: Option<u64>,
    /// The first damage found, at most [`MAX_LISTED`]; `damage_count` is exact.
    pub(crate) damage: Vec<Damage>,
    pub(crate) damage_count: u64,
    pub(super) number: u64,
}

impl SegmentSummary {
    /// Whether something was found that no crash explains. Nothing may be added to such a trail.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage_count > 0
    }

    /// Whether there is a key to check it with. A given key that has signed something here shows that
    /// the header names another one wrongly, and a segment without a header cannot name any.
    pub(crate) fn is_checked(&self) -> bool {
        self.key_is_given || self.signed > 0 || self.header.is_none()
    }

    /// What the next segment's header says about this one.
    pub(crate) fn previous(&self) -> Option<Previous> {
        Some(Previous {
            segment: self.number,
            end: self.end,
            void: None,
            checkpoint: self.checkpoint.as_ref()?.to_string(),
            frontier: encode_nodes(&self.frontier),
            voided: Vec::new(),
            voided_total: None,
        })
    }
}
