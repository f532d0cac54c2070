//! What an earlier run signed and did not acknowledge, as its successor finds it.
//!
//! The bytes behind the trail's end hold one batch at most, whole or torn, and a segment without a name
//! holds the batch that it was to begin with. The checkpoint there is validly signed, and the trail that
//! goes on contradicts it: the next header declares it void. A crash may have kept any part of such a
//! batch, so a checkpoint is looked for byte by byte, whatever stands around it. This module writes nothing.

use std::io::{self, BufReader, Read};

use memchr::memmem;

use super::{AuditTrailBuilder, OpenError};
use crate::audit::checkpoint::{Checkpoint, MAX_CHECKPOINT_LINE_BYTES, VerifierKey};
use crate::audit::position::Position;
use crate::audit::segment::{CHECKPOINT_START, parse_checkpoint};
use crate::audit::storage::{Storage, segment_name};

/// The most bytes that are read of one file: more than one batch has.
const MAX_BYTES: u64 = 256 << 20;

impl AuditTrailBuilder {
    /// Declares void what was signed behind `position`.
    pub(super) fn declare_void<S: Storage>(
        &self,
        storage: &S,
        position: &mut Position,
        keys: &[VerifierKey],
    ) -> Result<(), OpenError> {
        let failed = |name: &str| super::failed(&self.dir.join(name), "read");
        let mut found = Vec::new();
        if position.void > 0 {
            let name = segment_name(position.segment);
            let mut source = storage.read(position.segment).map_err(failed(&name))?;
            io::copy(&mut source.by_ref().take(position.end), &mut io::sink())
                .and_then(|_| signed_in(source, keys))
                .map(|signed| found.extend(signed))
                .map_err(failed(&name))?;
        }
        let unfinished = storage.unfinished();
        let unfinished = unfinished.map_err(super::failed(&self.dir, "read the segments in"))?;
        for (name, source) in unfinished {
            let signed = signed_in(source, keys).map_err(failed(&name))?;
            if signed.len() > 1 {
                return Err(OpenError::Damaged {
                    path: self.dir.clone(),
                    detail: format!(
                        "it holds {} signed checkpoints, and a segment that never got its name holds one: give it the name back that it had",
                        signed.len()
                    ),
                    segment: name,
                });
            }
            found.extend(signed);
        }
        for signed in found {
            if signed.origin() == position.checkpoint.origin()
                && signed.size() > position.frontier.size()
            {
                position.voided.push(signed.size(), signed.root());
            }
        }
        Ok(())
    }
}

/// The checkpoints that one of `keys` has signed.
fn signed_in(source: impl Read, keys: &[VerifierKey]) -> io::Result<Vec<Checkpoint>> {
    let mut found = Vec::new();
    let mut source = BufReader::new(source.take(MAX_BYTES));
    let mut piece = Vec::new();
    loop {
        // A checkpoint's line has one closing brace, at its end.
        let before = piece.len();
        let mut more = (&mut source).take(MAX_CHECKPOINT_LINE_BYTES as u64);
        io::BufRead::read_until(&mut more, b'}', &mut piece)?;
        if piece.len() == before {
            return Ok(found);
        }
        if piece.last() != Some(&b'}') {
            let excess = piece.len().saturating_sub(MAX_CHECKPOINT_LINE_BYTES);
            piece.drain(..excess);
            continue;
        }
        let start = memmem::rfind(&piece, CHECKPOINT_START);
        let line = start.and_then(|start| piece.get(start..));
        if let Some(Ok(checkpoint)) = line.map(parse_checkpoint)
            && checkpoint.is_signed_by_one_of(keys)
        {
            found.push(checkpoint);
        }
        piece.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::merkle::Frontier;
    use ed25519_dalek::{Signer as _, SigningKey};

    fn line(secret: &SigningKey, key: &VerifierKey, leaf: u8) -> Vec<u8> {
        let mut tree = Frontier::default();
        tree.push([leaf; 32]);
        let body = Checkpoint::body(key.name(), &tree);
        let signature = secret.sign(body.as_bytes());
        let line = Checkpoint::sign_with(key, &tree, &body, signature).to_line();
        line.unwrap().into_bytes()
    }

    #[test]
    fn a_signed_checkpoint_is_found_whatever_a_crash_has_left_around_it() {
        let secret = SigningKey::from_bytes(&[3; 32]);
        let key = VerifierKey::new("origin".into(), secret.verifying_key());
        let whole = line(&secret, &key, 1);
        let other = line(&SigningKey::from_bytes(&[4; 32]), &key, 1);
        let torn = whole.strip_suffix(b"\n").unwrap();
        let cut = whole.strip_suffix(b"}\n").unwrap();
        let long = [&[0; 5 << 20][..], torn].concat();
        let inside = [b"{\"seq\":1,\"a\":{}\n\0\xff{\"checkpoint\":", torn, b"}}"].concat();
        let mut changed = whole.clone();
        changed[whole.len() - 20] ^= 1;
        let cases: [(&[u8], usize); 9] = [
            (&whole, 1),
            (torn, 1),
            (cut, 0),
            (&long, 1),
            (&inside, 1),
            (&changed, 0),
            (&other, 0),
            (&[&whole[..], &line(&secret, &key, 2)].concat(), 2),
            (b"", 0),
        ];
        for (number, (bytes, expected)) in cases.into_iter().enumerate() {
            let found = signed_in(bytes, std::slice::from_ref(&key)).unwrap();
            assert_eq!(found.len(), expected, "case {number}");
        }
    }
}
