//! What an earlier run signed and did not acknowledge, as its successor finds it.
//!
//! The bytes behind the trail's end hold one batch at most, whole or torn, and a segment without a name
//! holds the batch that it was to begin with. The checkpoint there is validly signed, and the trail that
//! goes on contradicts it: the next header declares it void. A crash may have kept any part of such a
//! batch, so the signed text is looked for, whatever stands around it. Signatures are not verified: a
//! declaration excuses nothing, and half a signature may be completed. This module writes nothing.

use std::io::{self, Read};

use memchr::memmem;

use super::{AuditTrailBuilder, OpenError, failed};
use crate::audit::checkpoint::{decode_base64, parse_decimal};
use crate::audit::merkle::Node;
use crate::audit::position::Position;
use crate::audit::segment::CHECKPOINT_START;
use crate::audit::storage::{Storage, segment_name};

/// The most bytes that are read of one file: more than one batch has.
const MAX_BYTES: u64 = 256 << 20;

/// How much is looked at together.
const PIECE_BYTES: usize = 64 << 10;

/// More than the text of a checkpoint takes, with what stands before it in its line.
const OVERLAP_BYTES: usize = 1 << 10;

/// The text of a checkpoint, found among other bytes.
#[derive(Debug, Eq, PartialEq)]
struct Text {
    size: u64,
    root: Node,
    /// It stands where a line of a segment has it.
    is_line: bool,
}

impl AuditTrailBuilder {
    /// Declares void what was signed behind `position`. Refuses a segment without a name that is more
    /// than the beginning of one.
    pub(super) fn declare_void<S: Storage>(
        &self,
        storage: &S,
        position: &mut Position,
    ) -> Result<(), OpenError> {
        let read = |name: &str| failed(&self.dir.join(name), "read");
        let known = position.frontier.size();
        let origin = position.checkpoint.origin().to_owned();
        let later = |source| -> io::Result<Vec<Text>> {
            let mut texts = texts(source, &origin)?;
            texts.retain(|text| text.size > known);
            Ok(texts)
        };
        let mut found = Vec::new();
        if position.void > 0 {
            let name = segment_name(position.segment);
            let mut source = storage.read(position.segment).map_err(read(&name))?;
            let skipped = io::copy(&mut source.by_ref().take(position.end), &mut io::sink());
            found = skipped.and_then(|_| later(source)).map_err(read(&name))?;
        }
        let unfinished = storage.unfinished();
        for name in unfinished.map_err(failed(&self.dir, "list segments in"))? {
            let source = storage.read_unfinished(&name).map_err(read(&name))?;
            let texts = later(source).map_err(read(&name))?;
            if texts.iter().filter(|text| text.is_line).count() > 1 {
                return Err(OpenError::Damaged {
                    path: self.dir.clone(),
                    segment: name,
                    detail: "it has no segment's name and holds several checkpoints that the trail lacks: it was a segment of this trail, which somebody has renamed".into(),
                });
            }
            found.extend(texts);
        }
        for text in found {
            position.voided.push_once(text.size, text.root);
        }
        Ok(())
    }
}

/// The texts of checkpoints of `origin`, as JSON has them in a string.
fn texts(source: impl Read, origin: &str) -> io::Result<Vec<Text>> {
    let mut source = source.take(MAX_BYTES);
    let start = memmem::Finder::new(origin);
    let (mut found, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let kept = bytes.len();
        let more = source
            .by_ref()
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut bytes)?;
        // What begins behind this is looked at with the next piece.
        let end = if more < PIECE_BYTES {
            bytes.len()
        } else {
            bytes.len().saturating_sub(OVERLAP_BYTES / 2)
        };
        let from = kept.saturating_sub(OVERLAP_BYTES / 2);
        for at in start
            .find_iter(&bytes)
            .filter(|at| (from..end).contains(at))
        {
            let (before, text) = bytes.split_at(at);
            let text = text.get(origin.len()..).unwrap_or_default();
            if let Some((size, root)) = size_and_root(text) {
                let line = [CHECKPOINT_START, b"\""].concat();
                let is_line = before.ends_with(&line);
                found.push(Text {
                    size,
                    root,
                    is_line,
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

/// What follows the origin in a checkpoint's text, with its newlines escaped.
fn size_and_root(text: &[u8]) -> Option<(u64, Node)> {
    const ROOT_BYTES: usize = 44;
    let text = text.strip_prefix(b"\\n")?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (size, text) = text.split_at_checked(digits)?;
    let (root, text) = text.strip_prefix(b"\\n")?.split_at_checked(ROOT_BYTES)?;
    text.strip_prefix(b"\\n\\n")?;
    let root = decode_base64(str::from_utf8(root).ok()?)?;
    let size = parse_decimal(str::from_utf8(size).ok()?)?;
    Some((size, root.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::{Checkpoint, VerifierKey};
    use crate::audit::merkle::Frontier;
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
    fn a_signed_text_is_found_whatever_a_crash_has_left_around_it() {
        let whole = line(1);
        let expected = |is_line| Text {
            size: 1,
            root: [1; 32],
            is_line,
        };
        let found = |bytes: &[u8]| texts(bytes, "origin").unwrap();
        for cut in 0..100 {
            let torn = &whole[..whole.len() - cut];
            assert_eq!(found(torn), [expected(true)], "{cut} bytes are gone");
        }
        for zeros in 1..=15 {
            let torn = [&vec![0; zeros][..], &whole[zeros..]].concat();
            assert_eq!(found(&torn), [expected(false)], "{zeros} bytes are zero");
        }
        // Wherever a piece ends.
        for before in (PIECE_BYTES - 600..PIECE_BYTES + 600).chain([3 * PIECE_BYTES - 700]) {
            let bytes = [&vec![b'o'; before][..], &whole, &line(2)].concat();
            let other = Text {
                root: [2; 32],
                ..expected(true)
            };
            assert_eq!(found(&bytes), [expected(true), other], "behind {before}");
        }
        assert_eq!(texts(&*whole, "another").unwrap(), []);
        assert_eq!(found(&whole[..60]), []);
    }
}
