//! The end of a trail's acknowledged part, and the checkpoints behind it that were signed and not
//! acknowledged.
//!
//! A checkpoint is signed before its batch is written. If the write or its sync fails, the records
//! are written again elsewhere, behind a new header. So the continued trail contradicts the signed
//! checkpoint, which stays on disk among void bytes. The next header names such checkpoints.
//!
//! A position is kept in memory for weeks, and every signature rests on it. So it carries a digest
//! of itself, and can be read again from the segments. A flipped bit in it then costs a segment,
//! and not the trail. This module does not write, and knows nothing of records.

use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::checkpoint::{Checkpoint, VerifierKey, encode_base64, encode_nodes};
use super::event::{Previous, VoidedCheckpoint};
use super::merkle::{Frontier, Node};
use super::segment::{self, SegmentSummary};
use super::storage::Storage;

/// The most voided checkpoints that a header lists: half of them the first ones, half the last
/// ones.
pub(crate) const MAX_VOIDED: usize = 64;

/// The end of the trail's acknowledged part.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    /// The offset just behind the last acknowledged checkpoint line.
    pub(crate) end: u64,
    /// How many bytes may stand behind it.
    pub(crate) void: u64,
    pub(crate) frontier: Frontier,
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// The checkpoints signed since then.
    pub(crate) voided: Voided,
    /// The digest of segment, end, tree and checkpoint.
    digest: Node,
}

/// Checkpoints that were signed since the last acknowledged one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Voided {
    listed: Vec<(u64, Node)>,
    total: u64,
}

impl Position {
    /// Returns the end of an acknowledged part behind which nothing was signed.
    pub(crate) fn new(
        segment: u64,
        end: u64,
        void: u64,
        frontier: Frontier,
        checkpoint: Arc<Checkpoint>,
    ) -> Self {
        let mut position = Self {
            segment,
            end,
            void,
            frontier,
            checkpoint,
            voided: Voided::default(),
            digest: Node::default(),
        };
        position.digest = position.compute();
        position
    }

    /// Returns whether the position still has its digest.
    pub(crate) fn is_intact(&self) -> bool {
        self.digest == self.compute()
    }

    fn compute(&self) -> Node {
        let mut digest = Sha256::new();
        let numbers = [
            self.segment,
            self.end,
            self.frontier.size(),
            self.checkpoint.size(),
        ];
        for number in numbers {
            digest.update(number.to_le_bytes());
        }
        for node in self.frontier.nodes() {
            digest.update(node);
        }
        digest.update(self.checkpoint.root());
        digest.update(self.checkpoint.as_str());
        digest.finalize().into()
    }

    /// Reads the same position again from the segments, because this one is damaged. The damaged
    /// field need not be known: the result must have the digest, or equal this position in all
    /// other fields.
    ///
    /// # Errors
    ///
    /// Errors of the storage, or no such position exists there.
    pub(crate) fn restore(&self, storage: &impl Storage, key: &VerifierKey) -> io::Result<Self> {
        let keys = std::slice::from_ref(key);
        // A segment whose name was given, but whose directory was not synced, may stand behind the
        // right one.
        for segment in storage.segments()?.into_iter().rev().take(2) {
            let read = |end| segment::read(storage.read(segment)?, segment, keys, end, &mut |_| {});
            let newest = read(None)?;
            // The bytes of a failed write may look acknowledged.
            let before = newest.settled;
            for found in [newest, read(Some(before))?] {
                if let Some(position) = self.among(segment, found) {
                    return Ok(position);
                }
            }
        }
        Err(io::Error::other(
            "no segment ends with the checkpoint that was acknowledged last",
        ))
    }

    fn among(&self, segment: u64, found: SegmentSummary) -> Option<Self> {
        let checkpoint = Arc::new(found.checkpoint?);
        let mut read = Self::new(segment, found.end, self.void, found.frontier, checkpoint);
        read.voided = self.voided.clone();
        (read.digest == self.digest || read.digest == self.compute()).then_some(read)
    }

    /// Returns the position as the next segment's header states it, with at most `void` bytes
    /// behind the end.
    pub(crate) fn previous(&self, void: u64) -> Previous {
        Previous {
            segment: self.segment,
            end: self.end,
            void: Some(void),
            checkpoint: self.checkpoint.to_string(),
            frontier: encode_nodes(&self.frontier),
            voided: self.voided.named(),
            voided_total: self.voided.total_if_cut(),
        }
    }
}

impl Voided {
    /// Notes a checkpoint before anything that contains it is written.
    pub(crate) fn push(&mut self, size: u64, root: Node) {
        self.total = self.total.saturating_add(1);
        if self.listed.len() >= MAX_VOIDED {
            self.listed.remove(MAX_VOIDED / 2);
        }
        self.listed.push((size, root));
    }

    fn named(&self) -> Vec<VoidedCheckpoint> {
        let name = |(size, root): &(u64, Node)| VoidedCheckpoint {
            size: *size,
            root: encode_base64(root),
        };
        self.listed.iter().map(name).collect()
    }

    fn total_if_cut(&self) -> Option<u64> {
        (self.total > self.listed.len() as u64).then_some(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_voided_checkpoints_are_listed_and_all_are_counted() {
        let mut voided = Voided::default();
        for size in 0..64 {
            voided.push(size, [0; 32]);
        }
        assert_eq!((voided.named().len(), voided.total_if_cut()), (64, None));
        for size in 64..1000 {
            voided.push(size, [0; 32]);
        }
        let sizes: Vec<u64> = voided.named().iter().map(|voided| voided.size).collect();
        let expected: Vec<u64> = (0..32).chain(968..1000).collect();
        assert_eq!(sizes, expected);
        assert_eq!(voided.total_if_cut(), Some(1000));
    }
}
