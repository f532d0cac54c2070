//! A batch is read where it lies in memory, as a verifier reads it, before it is written.
//!
//! What is hashed, signed and written are three readings of the same bytes, and a bit may flip between
//! them. Nothing is written that a verifier would refuse. The signature is not verified once more: the key
//! has done that, and the text that it signed is compared. This module does not write.

use super::Log;
use crate::audit::checkpoint::Checkpoint;
#[cfg(feature = "fault-injection")]
use crate::audit::faults::Memory;
use crate::audit::merkle::{Frontier, leaf_hash};
use crate::audit::segment;
use crate::audit::storage::Storage;

impl<S: Storage> Log<S> {
    /// Whether the buffer holds what a reader needs: leaves with the root that was signed, and the
    /// checkpoint. A segment that begins here is read whole, its header compared with what is known.
    pub(super) fn is_as_signed(
        &self,
        offset: u64,
        (tree, checkpoint): &(Frontier, Checkpoint),
    ) -> bool {
        if offset == 0 {
            return self.begins_as_signed(tree, checkpoint);
        }
        let mut found = self.frontier();
        let line = checkpoint.to_line().unwrap_or_default();
        let Some(mut records) = self.buffer.strip_suffix(line.as_bytes()) else {
            return false;
        };
        while let Some(end) = memchr::memchr(b'\n', records) {
            let (record, rest) = records.split_at(end);
            found.push(leaf_hash(record));
            records = rest.get(1..).unwrap_or_default();
        }
        let body = Checkpoint::body(self.verifier.name(), &found);
        records.is_empty() && found == *tree && checkpoint.signed_text() == body
    }

    fn begins_as_signed(&self, tree: &Frontier, checkpoint: &Checkpoint) -> bool {
        let keys = std::slice::from_ref(&self.verifier);
        let (segment, length) = (self.next_segment(), self.buffer.len() as u64);
        let read = segment::read_alone(&*self.buffer, segment, keys, None, &mut |_| {});
        read.is_ok_and(|read| {
            let header = read.header.as_ref();
            let previous = header.and_then(|header| header.previous.as_ref());
            let is_known = match (previous, &self.position) {
                (None, None) => true,
                (Some(stated), Some(known)) => {
                    stated.end == known.end && stated.checkpoint == known.checkpoint.to_string()
                }
                (None, Some(_)) | (Some(_), None) => false,
            };
            is_known
                && !read.is_damaged()
                && read.end == length
                && read.frontier == *tree
                && read.checkpoint.as_ref() == Some(checkpoint)
        })
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn flip_end(&mut self) {
        let (tree, end) = (
            self.storage.flips(Memory::Tree),
            self.storage.flips(Memory::Position),
        );
        if let Some(position) = &mut self.position {
            if tree {
                position.frontier.flip();
            }
            if end {
                position.end ^= 1 << 7;
            }
        }
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn flip_batch(&mut self) {
        let length = self.buffer.len();
        // In a record, and in the signature.
        let places = [
            (Memory::Lines, length / 3),
            (Memory::Checkpoint, length.saturating_sub(40)),
        ];
        for (memory, at) in places {
            if self.storage.flips(memory)
                && let Some(byte) = self.buffer.get_mut(at)
            {
                *byte ^= 1;
            }
        }
    }
}
