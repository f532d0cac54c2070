//! Compares a batch in memory with what was hashed and signed, before it is written.
//!
//! Hashing, signing and writing read the same bytes three times, and a bit may flip in between.
//! Hashing all lines again would take as long as the first time, on the one thread that every
//! record waits for. So a parity, taken before the hash, finds each single bit that flips in a
//! line. The tree is built once more from the leaves. The signature is not verified again, since
//! the key has done that; the text that it signed is compared.
//!
//! Not defended: a bit that flips while a record is encoded, before its parity is taken, or inside
//! the computation of a hash. This module does not write.

use super::Log;
use crate::checkpoint::Checkpoint;
#[cfg(feature = "fault-injection")]
use crate::faults::Memory;
use crate::merkle::{Frontier, Node};
use crate::segment;
use crate::storage::Storage;

/// The lines in the buffer, as they were hashed and signed.
pub(super) struct Batch {
    /// The tree with all of them.
    pub(super) tree: Frontier,
    /// The hashes of the records.
    pub(super) leaves: Vec<Node>,
    /// The exclusive or of the records' parities.
    pub(super) parity: u64,
    pub(super) checkpoint: Checkpoint,
}

/// Returns the exclusive or of a line's words: each single flipped bit changes it.
pub(super) fn parity(line: &[u8]) -> u64 {
    let (words, rest) = line.as_chunks();
    let rest = rest
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte));
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words.fold(rest, |parity, word| parity ^ word)
}

impl<S: Storage> Log<S> {
    /// Returns whether the buffer holds the records that were hashed and the checkpoint that was
    /// signed. A segment that begins here is read whole, and its header is compared with the known
    /// values.
    pub(super) fn is_as_hashed(&self, offset: u64, batch: &Batch) -> bool {
        let Batch {
            tree, checkpoint, ..
        } = batch;
        if offset == 0 {
            return self.begins_as_signed(tree, checkpoint);
        }
        let line = checkpoint.to_line().unwrap_or_default();
        let Some(mut records) = self.buffer.strip_suffix(line.as_bytes()) else {
            return false;
        };
        let mut found = 0;
        while let Some(end) = memchr::memchr(b'\n', records) {
            let (record, rest) = records.split_at(end);
            found ^= parity(record);
            records = rest.get(1..).unwrap_or_default();
        }
        let mut grown = self.frontier();
        batch.leaves.iter().for_each(|leaf| grown.push(*leaf));
        let body = Checkpoint::body(self.verifier.name(), &grown);
        let is_signed = grown == *tree && checkpoint.signed_text() == body;
        records.is_empty() && found == batch.parity && is_signed
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
        // One bit in a record, and one in the signature.
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

#[cfg(test)]
mod tests {
    use super::parity;

    #[test]
    fn each_single_bit_changes_the_parity() {
        let line: Vec<u8> = (0..43).collect();
        for bit in 0..line.len() * 8 {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(parity(&flipped), parity(&line), "bit {bit}");
        }
    }
}
