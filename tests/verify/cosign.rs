//! A witness that signs checkpoints of others, made of the `openssl` command: a C2SP cosignature/v1.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use vram_residency::audit::Checkpoint;

/// When it cosigns, in seconds since 1970.
const TIME: u64 = 1_785_000_000;

pub struct Witness {
    dir: PathBuf,
    name: String,
    public: Vec<u8>,
}

impl Witness {
    /// Makes a key in a directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.to_owned();
        openssl(&dir, "genpkey -algorithm ed25519 -out witness.pem");
        openssl(
            &dir,
            "pkey -in witness.pem -pubout -outform DER -out witness.der",
        );
        let der = std::fs::read(dir.join("witness.der")).unwrap();
        Self {
            public: der[der.len() - 32..].to_vec(),
            name: name.to_owned(),
            dir,
        }
    }

    /// The verifier key of its cosignatures, as the specification writes it.
    pub fn verifier_key(&self) -> String {
        let key = STANDARD.encode([&[4], &self.public[..]].concat());
        format!("{}+{}+{key}", self.name, hex::encode(self.hash()))
    }

    /// A signature line for the checkpoint: 76 bytes, of which 8 are the time.
    pub fn cosign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.signed_text();
        let message = format!("cosignature/v1\ntime {TIME}\n{text}");
        std::fs::write(self.dir.join("message"), message).unwrap();
        openssl(
            &self.dir,
            "pkeyutl -sign -inkey witness.pem -rawin -in message -out signature",
        );
        let signature = std::fs::read(self.dir.join("signature")).unwrap();
        let blob = [&self.hash()[..], &TIME.to_be_bytes(), &signature].concat();
        assert_eq!(blob.len(), 76);
        line(&self.name, &blob)
    }

    fn hash(&self) -> [u8; 4] {
        let bytes = [self.name.as_bytes(), b"\n\x04", &self.public].concat();
        Sha256::digest(bytes)[..4].try_into().unwrap()
    }
}

/// A signature line that holds these bytes.
pub fn line(name: &str, blob: &[u8]) -> String {
    format!("\u{2014} {name} {}\n", STANDARD.encode(blob))
}

/// The checkpoint's text with lines of others before and behind its own.
pub fn with_lines(checkpoint: &Checkpoint, before: &str, behind: &str) -> String {
    let (text, own) = checkpoint
        .to_string()
        .split_once("\n\n")
        .map(|(text, own)| (text.to_owned(), own.to_owned()))
        .unwrap();
    format!("{text}\n\n{before}{own}{behind}")
}

fn openssl(dir: &Path, words: &str) {
    let ended = Command::new("openssl")
        .args(words.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{words}: {ended:?}");
}
