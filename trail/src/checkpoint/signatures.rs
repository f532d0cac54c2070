//! The signature lines of a note: their form, their limits, and which of them a known key has
//! signed.
//!
//! A keeper of a checkpoint may add a line of its own, such as the cosignature of a witness. Lines
//! under unknown names and keys are checked for their form and are otherwise ignored, whatever they
//! hold and wherever they stand. This module knows lines. It does not know what the text above them
//! means.

use ed25519_dalek::Signature;

use super::{VerifierKey, decode_base64};

/// The most signature lines that are read in one note: the trail's own, and 100 of others.
pub(super) const MAX_LINES: usize = 101;

/// The most bytes in one signature line, its newline not counted.
pub(super) const MAX_LINE_BYTES: usize = 16_384;

/// The most bytes in all signature lines, their newlines not counted: the trail's own, and 1 MiB of
/// others.
pub(super) const MAX_BYTES: usize = (1 << 20) + MAX_LINE_BYTES;

/// The bytes of a key hash and at least one byte of a signature.
const MIN_BLOB_BYTES: usize = 5;

/// One signature line.
pub(super) struct SignatureLine<'a> {
    name: &'a str,
    blob: Vec<u8>,
}

impl<'a> SignatureLine<'a> {
    fn parse(line: &'a str) -> Result<Self, &'static str> {
        if line.len() > MAX_LINE_BYTES {
            return Err("a signature line has more than 16 384 bytes");
        }
        let (name, blob) = line
            .strip_prefix("— ")
            .and_then(|rest| rest.split_once(' '))
            .filter(|(name, _)| is_name(name))
            .ok_or("a signature line has not the form `— name base64`")?;
        let blob = decode_base64(blob).ok_or("a signature is not base64")?;
        if blob.len() < MIN_BLOB_BYTES {
            return Err("a signature is too short");
        }
        Ok(Self { name, blob })
    }

    /// Returns the name of the signing key.
    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    /// Returns the signature, if it has the length of an Ed25519 signature.
    pub(super) fn ed25519(&self) -> Option<Signature> {
        let (_, signature) = self.blob.split_first_chunk::<4>()?;
        Signature::from_slice(signature).ok()
    }

    fn is_under(&self, key: &VerifierKey) -> bool {
        self.name == key.name() && self.blob.starts_with(&key.hash())
    }

    fn is_valid(&self, key: &VerifierKey, signed: &str) -> bool {
        self.ed25519()
            .is_some_and(|signature| key.accepts(signed.as_bytes(), &signature))
    }
}

/// Returns whether a text has the form of a key's name in a signed note.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c < ' ' || c == '+' || c.is_whitespace())
}

/// Returns the number of signature lines, if all of them have the right form.
pub(super) fn count(text: &str) -> Result<usize, &'static str> {
    let lines = text
        .strip_suffix('\n')
        .ok_or("the signature line does not end in a newline")?;
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for line in lines.split('\n') {
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(line.len());
        if count > MAX_LINES || bytes > MAX_BYTES {
            return Err("it has too many signatures");
        }
        SignatureLine::parse(line)?;
    }
    Ok(count)
}

/// Returns the lines of a text that [`count`] has accepted.
pub(super) fn lines(text: &str) -> impl Iterator<Item = SignatureLine<'_>> {
    text.split_terminator('\n')
        .filter_map(|line| SignatureLine::parse(line).ok())
}

/// Returns the key named `origin` that has signed, by the rules of C2SP signed-note. The first line
/// of each known key must be valid; lines of other keys are ignored. Returns `None` if a known
/// key's line is not valid.
pub(super) fn signer<'k>(
    text: &str,
    origin: &str,
    keys: &'k [VerifierKey],
    signed: &str,
) -> Option<&'k VerifierKey> {
    let mut seen: Vec<(&str, [u8; 4])> = Vec::new();
    let mut found = None;
    for line in lines(text) {
        let mut known = keys.iter().filter(|key| line.is_under(key)).peekable();
        let Some(first) = known.peek() else {
            continue;
        };
        let id = (line.name, first.hash());
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let signer = known.find(|key| line.is_valid(key, signed))?;
        if signer.name() == origin {
            found = found.or(Some(signer));
        }
    }
    found
}
