//! Finds what an earlier run signed and did not acknowledge.
//!
//! The bytes behind the trail's end hold at most one batch, whole or torn. A segment without a name
//! holds the batch that it was to begin with. The checkpoint there is validly signed, and the
//! continued trail contradicts it, so the next header declares it void. A crash may have kept any
//! part of such a batch. This module therefore looks for the signed text, whatever surrounds it. It
//! verifies no signature: a declaration excuses nothing, and half a signature may be completed. It
//! writes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};

use memchr::memmem;

use super::{OpenError, TrailBuilder, failed};
use crate::application::Application;
use crate::checkpoint::{decode_base64, parse_decimal};
use crate::merkle::Node;
use crate::position::Position;
use crate::segment::{self, CHECKPOINT_START};
use crate::storage::{Storage, segment_name};

/// The most bytes read of one file: more than the largest batch.
const MAX_BYTES: u64 = 2 << 30;

/// The bytes that are searched at a time.
const PIECE_BYTES: usize = 64 << 10;

/// More bytes than the text of a checkpoint takes, with the text before it in its line.
const OVERLAP_BYTES: usize = 1 << 10;

/// The most texts kept of one file. The last ones are kept, since a batch ends with its checkpoint.
const MAX_TEXTS: usize = 1024;

/// Size and root of a checkpoint, found among other bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Text {
    size: u64,
    root: Node,
    /// It stands at the place of a checkpoint line in a segment.
    is_line: bool,
}

impl<A: Application> TrailBuilder<A> {
    /// Declares void the checkpoints that were signed behind `position`.
    ///
    /// # Errors
    ///
    /// Errors of the storage, and of [`Self::signed_without_a_name`].
    pub(super) fn declare_void<S: Storage>(
        &self,
        storage: &S,
        position: &mut Position,
    ) -> Result<(), OpenError> {
        let known = position.frontier.size();
        let mut found = self.signed_without_a_name(storage, known)?;
        if position.void > 0 {
            let name = segment_name(position.segment);
            let read = || failed(&self.dir.join(&name), "read");
            let mut source = storage.read(position.segment).map_err(read())?;
            let skipped = io::copy(&mut source.by_ref().take(position.end), &mut io::sink());
            found.extend(skipped.and_then(|_| texts(source)).map_err(read())?);
        }
        let mut void = BTreeMap::new();
        for text in found.into_iter().filter(|text| text.size > known) {
            *void.entry((text.size, text.root)).or_insert(false) |= text.is_line;
        }
        // The list is cut in its middle, so that a text recorded by a caller cannot hide a
        // checkpoint.
        for wanted in [false, true] {
            for ((size, root), _) in void.iter().filter(|(_, is_line)| **is_line == wanted) {
                position.voided.push(*size, *root);
            }
        }
        Ok(())
    }

    /// Returns the signed texts in segments without a name. The trail has `known` leaves.
    ///
    /// # Errors
    ///
    /// Errors of the storage. [`OpenError::Damaged`] if one of them was a segment of a trail: it
    /// holds several checkpoints, and no segment with its number is there, or the trail ends before
    /// them.
    pub(super) fn signed_without_a_name<S: Storage>(
        &self,
        storage: &S,
        known: u64,
    ) -> Result<Vec<Text>, OpenError> {
        let mut found = Vec::new();
        let names = storage.unfinished();
        for name in names.map_err(failed(&self.dir, "list segments in"))? {
            let read = || failed(&self.dir.join(&name), "read");
            let open = || storage.read_unfinished(&name).map_err(read());
            let texts = texts(open()?).map_err(read())?;
            let lines = || texts.iter().filter(|text| text.is_line);
            if lines().count() > 1 {
                let header = segment::read_header(open()?).map_err(read())?;
                let namesake = header.map(|header| storage.find(header.segment));
                let namesake = namesake.transpose().map_err(read())?.flatten();
                let later = lines().filter(|text| text.size > known).count();
                if later > 1 || namesake.is_none() {
                    return Err(self.renamed(name));
                }
            }
            found.extend(texts);
        }
        Ok(found)
    }

    fn renamed(&self, name: String) -> OpenError {
        OpenError::Damaged {
            path: self.dir.clone(),
            segment: name,
            detail: "it holds several checkpoints and has no segment's name, so it was a segment that was renamed".into(),
        }
    }
}

/// Finds sizes and roots of checkpoints in the form of JSON strings.
fn texts(source: impl Read) -> io::Result<VecDeque<Text>> {
    let mut source = source.take(MAX_BYTES);
    let newline = memmem::Finder::new(br"\n");
    let (mut found, mut bytes) = (VecDeque::new(), Vec::new());
    loop {
        let kept = bytes.len();
        let more = source
            .by_ref()
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut bytes)?;
        // A text that begins behind this is searched with the next piece.
        let end = if more < PIECE_BYTES {
            bytes.len()
        } else {
            bytes.len().saturating_sub(OVERLAP_BYTES / 2)
        };
        let from = kept.saturating_sub(OVERLAP_BYTES / 2);
        for at in newline
            .find_iter(&bytes)
            .filter(|at| (from..end).contains(at))
        {
            let (before, text) = bytes.split_at(at);
            if let Some((size, root)) = size_and_root(text) {
                if found.len() >= MAX_TEXTS {
                    found.pop_front();
                }
                found.push_back(Text {
                    size,
                    root,
                    is_line: is_in_a_line(before),
                });
            }
        }
        if more < PIECE_BYTES {
            return Ok(found);
        }
        let excess = bytes.len().saturating_sub(OVERLAP_BYTES);
        bytes.drain(..excess);
    }
}

/// Returns whether bytes end with the text before the size in a checkpoint line: the origin, in
/// quotes.
fn is_in_a_line(before: &[u8]) -> bool {
    let quote = memchr::memrchr(b'"', before);
    let line = quote.and_then(|quote| before.get(..quote));
    line.is_some_and(|line| line.ends_with(CHECKPOINT_START))
}

/// Parses the text that follows the origin in a checkpoint, with its newlines escaped.
fn size_and_root(text: &[u8]) -> Option<(u64, Node)> {
    const ROOT_BYTES: usize = 44;
    let text = text.strip_prefix(br"\n")?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (size, text) = text.split_at_checked(digits)?;
    let (root, text) = text.strip_prefix(br"\n")?.split_at_checked(ROOT_BYTES)?;
    text.strip_prefix(br"\n\n")?;
    let root = decode_base64(str::from_utf8(root).ok()?)?;
    let size = parse_decimal(str::from_utf8(size).ok()?)?;
    Some((size, root.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, VerifierKey};
    use crate::merkle::Frontier;
    use ed25519_dalek::{Signer as _, SigningKey};

    fn line(leaf: u8) -> Vec<u8> {
        let secret = SigningKey::from_bytes(&[3; 32]);
        let key = VerifierKey::new("origin".into(), secret.verifying_key());
        let mut tree = Frontier::default();
        tree.push([leaf; 32]);
        let body = Checkpoint::body(key.name(), &tree);
        let signature = secret.sign(body.as_bytes());
        let line = Checkpoint::sign_with(&key, &tree, &body, signature).to_line();
        line.unwrap().into_bytes()
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_signed_text_is_found_whatever_a_crash_has_left_around_it() {
        let whole = line(1);
        let expected = |is_line| Text {
            size: 1,
            root: [1; 32],
            is_line,
        };
        let found = |bytes: &[u8]| texts(bytes).unwrap();
        // `{"checkpoint":"origin`, and with size, root and the newlines around them.
        let (before, until) = (21, 21 + 2 + 1 + 2 + 44 + 4);
        for end in until..=whole.len() {
            assert_eq!(found(&whole[..end]), [expected(true)], "cut at {end}");
        }
        assert_eq!(found(&whole[..until - 1]), []);
        for zeros in 1..=before {
            let torn = [&vec![0; zeros][..], &whole[zeros..]].concat();
            assert_eq!(found(&torn), [expected(false)], "{zeros} bytes are zero");
        }
        // All positions around the end of a piece.
        for before in (PIECE_BYTES - 600..PIECE_BYTES + 600).chain([3 * PIECE_BYTES - 700]) {
            let bytes = [&vec![b'o'; before][..], &whole, &line(2)].concat();
            let other = Text {
                root: [2; 32],
                ..expected(true)
            };
            assert_eq!(found(&bytes), [expected(true), other], "behind {before}");
        }
        assert_eq!(found(&whole.repeat(2 * MAX_TEXTS)).len(), MAX_TEXTS);
    }
}
