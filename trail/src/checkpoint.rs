//! Signed checkpoints and verifier keys: what makes a trail evidence.
//!
//! A checkpoint is a C2SP tlog-checkpoint in a C2SP signed note. Tools that do not know this crate
//! can check it (`openssl`, Go's `sumdb/note`). This module knows texts and signatures. It does not
//! know what a record means or where a line is stored. The signature lines are in its submodule.

mod signatures;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::merkle::{Frontier, Node};

/// The algorithm byte of Ed25519 in a signed note's key.
const ED25519: u8 = 0x01;

/// The bytes before the 32 bytes of an Ed25519 public key in DER (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The most bytes of a checkpoint's text: its three lines, its own signature, and 1 MiB of others.
pub(crate) const MAX_NOTE_BYTES: usize = (1 << 20) + (64 << 10);

/// The most bytes of a checkpoint as a line of JSON. A name may hold quotes, which take two bytes
/// each.
pub(crate) const MAX_CHECKPOINT_LINE_BYTES: usize = 2 * MAX_NOTE_BYTES;

/// The public half of a trail's key, which a reviewer needs to check the trail.
///
/// Its text has the form of C2SP signed notes: `<key name>+<8 hex digits>+<base64>`.
#[derive(Clone, Eq, PartialEq)]
pub struct VerifierKey {
    name: Arc<str>,
    key: VerifyingKey,
}

/// A statement of a trail's size and Merkle root, signed by the trail's key.
///
/// An anchor keeps its text ([`Display`](fmt::Display)). Parsing checks the form only;
/// [`verify`](super::verify) checks signatures. Besides the trail's own signature, the text may
/// hold up to 100 signatures of others, such as a witness: at most 16 KiB each, 1 MiB together.
/// They are kept and change no result. One exception: a wrong signature under a key that the reader
/// gives invalidates the whole text.
#[derive(Clone)]
pub struct Checkpoint {
    note: Arc<str>,
    origin: Arc<str>,
    size: u64,
    root: Node,
    /// The number of signature lines. Their content stays in the text, since there may be tens of
    /// thousands of anchors in memory.
    signatures: usize,
    /// The public key under which its signature was verified.
    signer: Option<Box<[u8; 32]>>,
}

/// The reason why a text is no verifier key or no checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The text is not a checkpoint.
    #[error("not a checkpoint: {0}")]
    Checkpoint(&'static str),
    /// The text is not a verifier key.
    #[error("not a verifier key (`name+hash+base64`): {0}")]
    Key(&'static str),
}

impl VerifierKey {
    pub(crate) fn new(name: Arc<str>, key: VerifyingKey) -> Self {
        Self { name, key }
    }

    /// Returns the key's name, which is also the origin of the trail's checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the 32 bytes of the Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Returns the public key as PEM (SubjectPublicKeyInfo), which `openssl pkeyutl -verify -pubin
    /// -rawin` reads.
    pub fn to_pem(&self) -> String {
        let mut der = ED25519_SPKI.to_vec();
        der.extend_from_slice(self.key.as_bytes());
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64.encode(der)
        )
    }

    /// Returns the first 4 bytes of `SHA-256(name ‖ "\n" ‖ 0x01 ‖ public key)`.
    pub(crate) fn hash(&self) -> [u8; 4] {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::new()
            .chain_update(self.name.as_bytes())
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        [a, b, c, d]
    }

    /// Returns whether `signature` is valid for `message` under this key. Strict: a second encoding
    /// is refused.
    pub(crate) fn accepts(&self, message: &[u8], signature: &Signature) -> bool {
        self.key.verify_strict(message, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(
            f,
            "{}+{}+{}",
            self.name,
            hex::encode(self.hash()),
            BASE64.encode(key)
        )
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text
            .split_once('+')
            .ok_or(NoteError::Key("there is no `+`"))?;
        let (hash, key) = rest
            .split_once('+')
            .ok_or(NoteError::Key("there is no second `+`"))?;
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(NoteError::Key("the name is empty or has white space"));
        }
        let bytes = decode_base64(key).ok_or(NoteError::Key("the key is not base64"))?;
        let Some((&ED25519, public)) = bytes.split_first() else {
            return Err(NoteError::Key("the key is not of type Ed25519"));
        };
        let public = public
            .try_into()
            .map_err(|_| NoteError::Key("the key has not 32 bytes"))?;
        let key = VerifyingKey::from_bytes(public)
            .map_err(|_| NoteError::Key("the key is no point of the curve"))?;
        let parsed = Self::new(name.into(), key);
        if hex::encode(parsed.hash()) != hash {
            return Err(NoteError::Key("the hash does not fit name and key"));
        }
        Ok(parsed)
    }
}

impl Checkpoint {
    /// Returns the text to be signed for a tree of this size and root.
    pub(crate) fn body(origin: &str, tree: &Frontier) -> String {
        format!(
            "{origin}\n{}\n{}\n",
            tree.size(),
            BASE64.encode(tree.root())
        )
    }

    /// Signs a body made by [`Self::body`].
    pub(crate) fn sign_with(
        key: &VerifierKey,
        tree: &Frontier,
        body: &str,
        signature: Signature,
    ) -> Self {
        let key_hash = key.hash();
        let mut blob = Vec::with_capacity(68);
        blob.extend_from_slice(&key_hash);
        blob.extend_from_slice(&signature.to_bytes());
        Self {
            note: format!("{body}\n— {} {}\n", key.name, BASE64.encode(blob)).into(),
            origin: Arc::clone(&key.name),
            size: tree.size(),
            root: tree.root(),
            signatures: 1,
            signer: None,
        }
    }

    /// Returns the origin: the name of the trail.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns how many leaves (records) the checkpoint covers.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the Merkle root of those leaves.
    pub fn root(&self) -> [u8; 32] {
        self.root
    }

    /// Returns the whole text, as an anchor keeps it.
    pub(crate) fn as_str(&self) -> &str {
        &self.note
    }

    /// Returns the part of the text that the signature covers.
    pub fn signed_text(&self) -> &str {
        signed_text(&self.note)
    }

    /// Returns the trail's own Ed25519 signature, 64 bytes: the first one under the origin's name.
    /// Zeros if there is none of that length.
    pub fn signature(&self) -> [u8; 64] {
        signatures::lines(self.signature_lines())
            .filter(|line| line.name() == self.origin())
            .find_map(|line| line.ed25519())
            .map_or([0; 64], |signature| signature.to_bytes())
    }

    /// Returns whether there is exactly one signature, by Ed25519, as always inside a trail.
    pub(crate) fn has_one_signature(&self) -> bool {
        let mut lines = signatures::lines(self.signature_lines());
        self.signatures == 1 && lines.all(|line| line.ed25519().is_some())
    }

    /// Verifies the signatures and stores the result for [`Self::is_signed_by`]. Verification takes
    /// far longer than any other operation on a checkpoint.
    pub(crate) fn find_signers(&mut self, keys: &[VerifierKey]) {
        let signer = self.signer_among(keys).map(VerifierKey::public_key);
        self.signer = signer.map(Box::new);
    }

    /// Returns whether `key` has signed the checkpoint: its origin is the key's name, one signature
    /// is valid under the key, and none under it is wrong.
    pub fn is_signed_by(&self, key: &VerifierKey) -> bool {
        self.is_signed_by_one_of(std::slice::from_ref(key))
    }

    /// Returns whether one of the keys has signed the checkpoint, and no signature under one of
    /// them is wrong.
    pub fn is_signed_by_one_of(&self, keys: &[VerifierKey]) -> bool {
        let known = |key: &VerifierKey| {
            self.signer.as_deref() == Some(&key.public_key()) && self.origin == key.name
        };
        (self.signatures == 1 && keys.iter().any(known)) || self.signer_among(keys).is_some()
    }

    fn signer_among<'k>(&self, keys: &'k [VerifierKey]) -> Option<&'k VerifierKey> {
        let (lines, signed) = (self.signature_lines(), self.signed_text());
        signatures::signer(lines, &self.origin, keys, signed)
    }

    /// Returns the text behind the empty line.
    fn signature_lines(&self) -> &str {
        let start = self.signed_text().len().saturating_add(1);
        self.note.get(start..).unwrap_or("")
    }

    /// Returns the line that holds this checkpoint in a segment, newline included.
    pub(crate) fn to_line(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            checkpoint: &'a str,
        }
        let mut line = serde_json::to_string(&Line {
            checkpoint: &self.note,
        })?;
        line.push('\n');
        Ok(line)
    }
}

impl Eq for Checkpoint {}

impl PartialEq for Checkpoint {
    /// All other fields follow from the text.
    fn eq(&self, other: &Self) -> bool {
        self.note == other.note
    }
}

fn signed_text(note: &str) -> &str {
    // The first empty line must be the only one.
    match note.find("\n\n") {
        Some(end) => note.get(..=end).unwrap_or(""),
        None => "",
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("origin", &self.origin)
            .field("size", &self.size)
            .field("root", &hex::encode(self.root))
            .finish_non_exhaustive()
    }
}

impl Serialize for Checkpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.note)
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        let wrong = NoteError::Checkpoint;
        if note.len() > MAX_NOTE_BYTES {
            return Err(wrong("it is longer than any checkpoint"));
        }
        let split = note
            .rfind("\n\n")
            .ok_or(wrong("there is no empty line before the signatures"))?;
        let (body, signatures) = note
            .split_at_checked(split.saturating_add(2))
            .ok_or(wrong("it ends before the signatures"))?;
        let mut lines = body
            .strip_suffix("\n\n")
            .ok_or(wrong("the text does not end in a newline"))?
            .split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(wrong("it has not three lines of text"));
        };
        if origin.is_empty() {
            return Err(wrong("the origin is empty"));
        }
        Ok(Self {
            note: note.into(),
            origin: origin.into(),
            size: parse_decimal(size).ok_or(wrong("the size is not a decimal number"))?,
            root: decode_base64(root)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(wrong("the root is not base64 of 32 bytes"))?,
            signatures: signatures::count(signatures).map_err(wrong)?,
            signer: None,
        })
    }
}

/// Decodes base64, and accepts only the canonical encoding.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(text).ok()?;
    (BASE64.encode(&bytes) == text).then_some(bytes)
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Returns a frontier in the form of a header.
pub(crate) fn encode_nodes(tree: &Frontier) -> Vec<String> {
    tree.nodes()
        .iter()
        .map(|node| encode_base64(node))
        .collect()
}

/// Parses a number in the form of the format: no sign, no leading zero.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Go's `golang.org/x/mod/sumdb/note` documentation.
    #[test]
    fn a_verifier_key_is_read_and_written_as_signed_notes_do() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert!(
            text.replace("c74f20a3", "c74f20a4")
                .parse::<VerifierKey>()
                .is_err()
        );
        assert!("PeterNeumann".parse::<VerifierKey>().is_err());
    }

    #[test]
    fn a_note_has_one_encoding() {
        let root = encode_base64(&[7; 32]);
        let signature = encode_base64(&[1; 68]);
        let note = format!("origin\n5\n{root}\n\n— origin {signature}\n");
        let checkpoint: Checkpoint = note.parse().unwrap();
        assert_eq!(checkpoint.size(), 5);
        assert_eq!(checkpoint.signed_text(), format!("origin\n5\n{root}\n"));
        for wrong in [
            note.replace("\n5\n", "\n05\n"),
            note.replace("\n5\n", "\n+5\n"),
            note.replace("— ", "- "),
            note.trim_end().to_owned(),
            note.replace("\n\n", "\n"),
            note.replace("\n\n", "\nextension\n\n"),
        ] {
            assert!(wrong.parse::<Checkpoint>().is_err(), "{wrong}");
        }
    }
}
