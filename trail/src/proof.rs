//! The proof that one record is in a trail, which can be checked without the trail.
//!
//! It is a [C2SP tlog-proof](https://c2sp.org/tlog-proof): the record's place, its path to the
//! root, and a signed checkpoint of that root. So one record can be shown to the party that it
//! concerns, without the records of others. This module knows the text and the check. Its submodule
//! `make` makes a proof from a trail's files. It does not know what the record means.

mod make;

use std::fmt;
use std::str::FromStr;

pub use make::{ProveError, newest_checkpoint, prove, stated_keys};

use super::checkpoint::{
    Checkpoint, MAX_NOTE_BYTES, NoteError, VerifierKey, decode_base64, encode_base64, parse_decimal,
};
use super::merkle::{MAX_PATH, Node, leaf_hash, root_of};
use super::segment::MAX_LINE_BYTES;

/// The first line of every proof.
const HEADER: &str = "c2sp.org/tlog-proof@v1\n";

/// The most bytes that the text of a proof may have. This leaves room for a record of the largest
/// size in base64, 64 hashes, and a checkpoint with the most signatures.
pub const MAX_PROOF_BYTES: usize = 128 * 1024 + MAX_NOTE_BYTES;

/// A record, and the proof that it is in the trail whose checkpoint is included.
///
/// The text is a C2SP tlog-proof, version 1; the `extra` line holds the record's line. Parsing
/// checks the form only, and each proof has exactly one text. [`check`](Self::check) returns
/// whether it proves anything.
///
/// ```no_run
/// use vram_trail::{Proof, VerifierKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key: VerifierKey = std::fs::read_to_string("verifier.key")?.trim().parse()?;
/// let proof = vram_trail::prove("/var/lib/worker/trail", &[key.clone()], 17)?;
/// std::fs::write("record-17.tlog-proof", proof.to_string())?;
///
/// // Elsewhere, by somebody who has the verifier key and this file alone:
/// let proof: Proof = std::fs::read_to_string("record-17.tlog-proof")?.parse()?;
/// println!("{}", proof.check(&[key])?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proof {
    record: String,
    index: u64,
    path: Vec<Node>,
    checkpoint: Checkpoint,
}

/// The reason why a text is no proof, or why a proof proves nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The text holds no valid checkpoint.
    #[error("the proof does not end in a checkpoint")]
    Checkpoint(#[source] NoteError),
    /// The text does not have the form of a proof.
    #[error("not a tlog-proof of a record: {0}")]
    Form(&'static str),
    /// A given key has the name that the checkpoint is signed with, but has not signed it.
    #[error("the checkpoint's signature is wrong: do not believe this proof")]
    NotSigned,
    /// The record is not at the place that the proof states, or was changed.
    #[error(
        "the record does not lead to the root that is signed: it was changed, or it is another trail's"
    )]
    NotIncluded,
    /// No given key has the name that the checkpoint is signed with. Give the key of that trail.
    #[error("no given key is that of {origin:?}: give the verifier key of the trail")]
    #[non_exhaustive]
    NoKey {
        /// The trail that the proof names.
        origin: String,
    },
}

impl Proof {
    /// Checks the proof with keys that the reader trusts, and returns the record: the exact signed
    /// line, without its newline.
    ///
    /// It proves that the record was in the trail when the checkpoint was signed. It does not prove
    /// that the trail held no other records.
    ///
    /// # Errors
    ///
    /// * [`ProofError::NoKey`]: no given key has the checkpoint's origin as its name. Give the key
    ///   of that trail.
    /// * [`ProofError::NotSigned`]: the key of that name has not signed the checkpoint. Do not
    ///   trust the proof.
    /// * [`ProofError::NotIncluded`]: the record does not lead to the signed root. Do not trust
    ///   the proof.
    pub fn check(&self, keys: &[VerifierKey]) -> Result<&str, ProofError> {
        let signer = self.checkpoint.origin();
        if !keys.iter().any(|key| key.name() == signer) {
            return Err(ProofError::NoKey {
                origin: signer.to_owned(),
            });
        }
        if !self.checkpoint.is_signed_by_one_of(keys) {
            return Err(ProofError::NotSigned);
        }
        if self.is_included() {
            Ok(&self.record)
        } else {
            Err(ProofError::NotIncluded)
        }
    }

    /// Returns the record's line as the proof states it. Nothing is proven before
    /// [`check`](Self::check).
    pub fn unchecked_record(&self) -> &str {
        &self.record
    }

    /// Returns the record's place in the trail: the number of leaves before it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the checkpoint that the record is proven against.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns whether the record leads to the checkpoint's root. The signature of the checkpoint
    /// is not checked here: [`check`](Self::check) does that.
    pub fn is_included(&self) -> bool {
        let leaf = leaf_hash(self.record.as_bytes());
        let size = self.checkpoint.size();
        root_of(leaf, self.index, size, &self.path) == Some(self.checkpoint.root())
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        writeln!(f, "extra {}", encode_base64(self.record.as_bytes()))?;
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", encode_base64(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Proof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let wrong = ProofError::Form;
        if text.len() > MAX_PROOF_BYTES {
            return Err(wrong("it is longer than any proof"));
        }
        let rest = text
            .strip_prefix(HEADER)
            .ok_or(wrong("the first line is not `c2sp.org/tlog-proof@v1`"))?;
        let (lines, checkpoint) = rest
            .split_once("\n\n")
            .ok_or(wrong("there is no empty line before the checkpoint"))?;
        let mut lines = lines.split('\n');
        let record = lines
            .next()
            .and_then(|line| line.strip_prefix("extra "))
            .ok_or(wrong("the second line is not `extra` with the record"))?;
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(parse_decimal)
            .ok_or(wrong("the third line is not `index` with a number"))?;
        Ok(Self {
            record: parse_record(record)?,
            index,
            path: parse_path(lines)?,
            checkpoint: checkpoint.parse().map_err(ProofError::Checkpoint)?,
        })
    }
}

fn parse_record(base64: &str) -> Result<String, ProofError> {
    let wrong = ProofError::Form;
    let bytes = decode_base64(base64).ok_or(wrong("the record is not base64"))?;
    if bytes.len() > MAX_LINE_BYTES || bytes.contains(&b'\n') {
        return Err(wrong("the record is not one line of at most 65 535 bytes"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("the record is not UTF-8"))
}

fn parse_path<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Node>, ProofError> {
    let mut path = Vec::new();
    for line in lines {
        if path.len() == MAX_PATH {
            return Err(ProofError::Form("it has more hashes than any path"));
        }
        let hash = decode_base64(line).and_then(|bytes| bytes.try_into().ok());
        path.push(hash.ok_or(ProofError::Form("a hash is not base64 of 32 bytes"))?);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::merkle::{AuditPath, Frontier};
    use super::*;

    /// Returns a proof of record `index` of `size`, and the key that it is signed with.
    fn proof(index: u64, size: u64) -> (Proof, VerifierKey) {
        let secret = SigningKey::from_bytes(&[7; 32]);
        let key = VerifierKey::new("origin".into(), secret.verifying_key());
        let record = |index| format!("{{\"seq\":{index}}}");
        let (mut tree, mut path) = (Frontier::default(), None);
        for leaf in 0..size {
            let hash = leaf_hash(record(leaf).as_bytes());
            match &mut path {
                None if leaf == index => path = Some(AuditPath::new(&tree)),
                None => {}
                Some(path) => AuditPath::push(path, hash),
            }
            tree.push(hash);
        }
        let body = Checkpoint::body("origin", &tree);
        let signature = secret.sign(body.as_bytes());
        let proof = Proof {
            record: record(index),
            index,
            path: path.unwrap().finish(),
            checkpoint: Checkpoint::sign_with(&key, &tree, &body, signature),
        };
        (proof, key)
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_proof_is_read_back_and_gives_the_record() {
        for (index, size) in [(0, 1), (0, 2), (2, 3), (4, 7), (63, 64), (64, 65)] {
            let (proof, key) = proof(index, size);
            let read: Proof = proof.to_string().parse().unwrap();
            assert_eq!(read, proof);
            assert_eq!(read.check(&[key]).unwrap(), format!("{{\"seq\":{index}}}"));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_proof_with_any_bit_flipped_is_refused() {
        let (proof, key) = proof(4, 7);
        let text = proof.to_string();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            let checked = text
                .parse::<Proof>()
                .and_then(|proof| proof.check(std::slice::from_ref(&key)).map(str::to_owned));
            assert!(checked.is_err(), "bit {bit}: {text}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_proof_says_why_it_proves_nothing() {
        let (good, key) = proof(4, 7);
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        let impostor = VerifierKey::new("origin".into(), other);
        let stranger = VerifierKey::new("another".into(), other);
        let unknown = ProofError::NoKey {
            origin: "origin".to_owned(),
        };
        assert_eq!(good.check(&[impostor]), Err(ProofError::NotSigned));
        assert_eq!(good.check(&[stranger]), Err(unknown.clone()));
        assert_eq!(good.check(&[]), Err(unknown));
        let moved = Proof {
            index: 5,
            ..good.clone()
        };
        assert_eq!(
            moved.check(std::slice::from_ref(&key)),
            Err(ProofError::NotIncluded)
        );
        let record = String::from("{\"seq\":40}");
        let changed = Proof { record, ..good };
        assert_eq!(changed.check(&[key]), Err(ProofError::NotIncluded));
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_text_that_is_no_proof_is_refused_whatever_it_holds() {
        let (good, _) = proof(4, 7);
        let text = good.to_string();
        let hash = encode_base64(&[0; 32]);
        let long = encode_base64("x".repeat(MAX_LINE_BYTES + 1).as_bytes());
        for wrong in [
            String::new(),
            HEADER.to_owned(),
            text.replace("@v1", "@v2"),
            text.replace('\n', "\r\n"),
            text.replace("index 4", "index 04"),
            text.replace("index 4", "index -4"),
            text.replace("index 4", "index 18446744073709551616"),
            text.replace("extra ", ""),
            text.replacen("extra ", "extra ====", 1),
            text.replacen("extra ", &format!("extra {long}"), 1),
            text.replacen(
                "index 4\n",
                &format!("index 4\n{}", format!("{hash}\n").repeat(64)),
                1,
            ),
            text.replacen("\n\n", "\n", 1),
            text.replacen("\n\n", "\n\n\n", 1),
            format!("{text}\n"),
            format!("{text}{}", "x".repeat(MAX_PROOF_BYTES)),
            text.replace(&encode_base64(b"{\"seq\":4}"), &encode_base64(b"a\nb")),
            text.replace(&encode_base64(b"{\"seq\":4}"), &encode_base64(b"\xff")),
        ] {
            assert!(wrong.parse::<Proof>().is_err(), "{wrong}");
        }
    }
}
