//! The summary of one segment, as the reader of segments passes it to code that compares segments.
//!
//! It holds only values. How they are found is in the reader.

use std::ops::Range;

use super::super::checkpoint::{Checkpoint, encode_nodes};
use super::super::event::Previous;
use super::super::merkle::Frontier;
use super::line::Header;

/// The place of a line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Place {
    /// Bytes before the line.
    pub(crate) offset: u64,
    /// Counted from 1.
    pub(crate) line: u64,
    /// Leaves before the line, in the whole trail.
    pub(crate) leaf: u64,
}

/// Damage that no crash explains.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Damage {
    pub(crate) place: Place,
    /// The leaves that no matching checkpoint vouches for because of the damage.
    pub(crate) leaves: Range<u64>,
    pub(crate) words: &'static str,
}

/// The bytes behind the last matching checkpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Behind {
    pub(crate) bytes: u64,
    /// The number of lines that are whole records.
    pub(crate) records: u64,
    /// The number of lines in the form of a checkpoint, signed or not.
    pub(crate) checkpoints: u64,
    /// The number of checkpoints that are validly signed.
    pub(crate) signed: u64,
    /// One of the checkpoints is in the canonical form.
    pub(crate) whole: bool,
    /// Bytes stand behind a checkpoint: this is more than one batch, and only one may be
    /// unacknowledged.
    pub(crate) many_batches: bool,
}

/// The content of one segment.
#[derive(Debug)]
pub(crate) struct SegmentSummary {
    /// The first record, if it is a header.
    pub(crate) header: Option<Header>,
    /// The offset just behind the last matching checkpoint. 0 if there is none.
    pub(crate) end: u64,
    /// The same for the matching checkpoint before it. A writer writes behind a checkpoint only
    /// once that is on disk. So while there may be a writer, the segment is durable up to here.
    pub(crate) settled: u64,
    /// The checkpoint at `end`.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The tree at `end`.
    pub(crate) frontier: Frontier,
    /// The highest number in any whole line, acknowledged or not. Unacknowledged lines can contain
    /// any number, so a run that continues from here must expect the largest possible one.
    pub(crate) highest_seq: Option<u64>,
    /// The bytes behind `end`.
    pub(crate) behind: Behind,
    /// The key that the header names is a given one.
    pub(crate) key_is_given: bool,
    /// The number of checkpoints that a given key has signed, matching or not, under the header's
    /// key or another.
    pub(crate) signed: u64,
    /// The next segment's key, if the last acknowledged record is `KeyChanged`.
    pub(crate) next_key: Option<String>,
    /// How many void bytes the previous segment may have. `None` if only the limit of one batch is
    /// known.
    pub(crate) void_before: Option<u64>,
    /// The first damage found, at most [`MAX_LISTED`]; `damage_count` is exact.
    pub(crate) damage: Vec<Damage>,
    pub(crate) damage_count: u64,
    pub(super) number: u64,
}

impl SegmentSummary {
    /// Returns whether there is damage that no crash explains. Nothing may be added to such a
    /// trail.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage_count > 0
    }

    /// Returns whether there is a key to check the segment with. A given key that has signed
    /// something here shows that the header wrongly names another one. A segment without a header
    /// names no key.
    pub(crate) fn is_checked(&self) -> bool {
        self.key_is_given || self.signed > 0 || self.header.is_none()
    }

    /// Returns what the next segment's header states about this one.
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
