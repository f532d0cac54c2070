//! Keys: the key that signs a trail, and how files of secrets are read.
//!
//! Types of secrets do not print, copy, compare or serialize. They are wiped on drop. Not defended:
//! copies in registers, stack and swap. This module knows where keys come from and which files may
//! be trusted. It does not know what is written with them.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

pub use self::file::read_secret;
pub(crate) use self::file::{advice, cannot_sync};
use self::file::{file_error, sync_directory, write_new};
use self::signing::LocalKey;
use crate::foreign::{self, Held};
use crate::{NoteError, VerifierKey};

pub(crate) use access::remedy;
pub use access::{Custody, FileAccess};
pub use error::{KeyError, SignError};

mod access;
mod error;
mod file;
mod signing;

/// The most bytes that are read from a trail key's file. A PEM file of an Ed25519 key has 119.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// The Ed25519 key that signs the trail's checkpoints.
///
/// It is an independent random key, or one that never leaves its hardware
/// ([`from_signer`](Self::from_signer)). It is not derived from the token, which others hold too.
pub struct TrailKey {
    kind: Kind,
    custody: Custody,
}

enum Kind {
    Here(Box<LocalKey>),
    Supplied {
        public: VerifyingKey,
        signer: Signer,
    },
}

/// A signing function for a key that is elsewhere. Its destructor runs on a thread of its own; the
/// caller waits for it 100 ms at most.
struct Signer(Held<Box<SignerFn>>);

impl Drop for Signer {
    fn drop(&mut self) {
        self.0.discard();
    }
}

/// Signs with a key that is elsewhere: takes a message, returns 64 bytes of signature.
type SignerFn = dyn FnMut(&[u8]) -> Result<[u8; 64], Box<dyn Error + Send + Sync>> + Send + 'static;

impl TrailKey {
    /// Opens the key in the file `path`, or creates it if there is none.
    ///
    /// The file is PEM (PKCS#8), which `openssl pkey -in FILE -pubout` reads. It is created
    /// atomically with mode 0600: two processes that create it at the same time both get the same
    /// key. An existing file must be regular, belong to the process's effective user or to root,
    /// and be closed to group and others. Its directory must exist.
    ///
    /// # Errors
    ///
    /// [`KeyError`] with the cause and what to do.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        match Self::open(path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match create_key(path) {
                    // Another process was faster, so its key is used.
                    Ok(()) | Err(KeyError::Exists { .. }) => Self::open(path),
                    Err(error) => Err(error),
                }
            }
            opened => opened,
        }
    }

    /// Creates a key in the file `path`, as [`open_or_create`](Self::open_or_create) does where
    /// there is none.
    ///
    /// # Errors
    ///
    /// [`KeyError::Exists`] if there is a file. Every other variant of [`KeyError`] states its
    /// cause and what to do.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        create_key(path.as_ref())?;
        Self::open(path)
    }

    /// Opens the key in the file `path`, which must exist and satisfy the rules of
    /// [`open_or_create`](Self::open_or_create).
    ///
    /// # Errors
    ///
    /// [`KeyError`] with the cause and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        Self::from_file(path, FileAccess::OwnerOnly)
    }

    /// Opens the key in the file `path`, which must exist, with a choice whether its group may read
    /// it, too.
    ///
    /// This is for Kubernetes, which gives the group of a pod (`fsGroup`) its bits in every file
    /// that it mounts: a secret has mode 0440, and a file on a volume 0660. `TrailOpened` records
    /// the choice (`key_access`).
    ///
    /// # Errors
    ///
    /// [`KeyError`] with the cause and what to do.
    pub fn from_file(path: impl AsRef<Path>, access: FileAccess) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let pem = read_secret(path, access, MAX_KEY_FILE_BYTES)?;
        let key = parse_key(&pem).ok_or_else(|| KeyError::Malformed { path: path.into() })?;
        Ok(Self::here(key, access.into()))
    }

    /// Reads a key that the caller has in memory: PEM (PKCS#8), as in a key file.
    ///
    /// # Errors
    ///
    /// [`KeyError::MalformedPem`] if the text is no such key.
    pub fn from_pem(pem: &SecretString) -> Result<Self, KeyError> {
        let key = parse_key(pem.expose_secret().as_bytes()).ok_or(KeyError::MalformedPem)?;
        Ok(Self::here(key, Custody::Memory))
    }

    fn here(key: SigningKey, custody: Custody) -> Self {
        Self {
            kind: Kind::Here(Box::new(LocalKey::new(key))),
            custody,
        }
    }

    /// Uses a key that stays elsewhere (an HSM, an agent), by its public half and a function that
    /// signs.
    ///
    /// Each signature is verified before it is used. The trail's writer thread calls the function;
    /// until it returns, nothing becomes durable. If it panics, the write has failed and is
    /// retried. The function is dropped on a thread of its own, for which closing waits 100 ms at
    /// most. A recorder, or any holder of one, that it owns keeps the trail open until it is
    /// closed.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the public key is refused.
    pub fn from_signer(
        public_key: [u8; 32],
        signer: impl FnMut(&[u8]) -> Result<[u8; 64], Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(&public_key) {
            Ok(public) if !public.is_weak() => Ok(Self {
                kind: Kind::Supplied {
                    public,
                    signer: Signer(Held::new(Box::new(signer))),
                },
                custody: Custody::Signer,
            }),
            _ => Err(KeyError::PublicKey),
        }
    }

    /// Returns the public half for reviewers of the trail `origin`. A verifier key includes the
    /// trail's name, which is in the trail and not in the key's file.
    ///
    /// # Errors
    ///
    /// [`NoteError::Key`] if `origin` cannot be a key's name: it is empty, or has white space or a
    /// `+`.
    pub fn verifier_key(&self, origin: &str) -> Result<VerifierKey, NoteError> {
        let key = VerifierKey::new(origin.into(), self.verifying_key());
        let read: VerifierKey = key.to_string().parse()?;
        if read == key {
            Ok(key)
        } else {
            Err(NoteError::Key("the name has a `+`"))
        }
    }

    /// Returns who could read the key at its source.
    pub(crate) fn custody(&self) -> Custody {
        self.custody
    }

    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        match &self.kind {
            Kind::Here(key) => key.verifying_key(),
            Kind::Supplied { public, .. } => *public,
        }
    }

    /// Flips a bit in `signatures` signatures, after `after` good ones, as a fault in memory or
    /// processor does. A supplied signer has no such fault.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_flip_signatures(mut self, after: u32, signatures: u32) -> Self {
        if let Kind::Here(key) = &mut self.kind {
            key.flip(after, signatures);
        }
        self
    }

    /// Signs `message`. Returns only a signature that the public key accepts.
    pub(crate) fn sign(&mut self, message: &[u8]) -> Result<Signature, SignError> {
        match &mut self.kind {
            Kind::Here(key) => key.sign(message),
            Kind::Supplied { public, signer } => {
                // The trail must survive a panic of the signer, and a panic of its error while that
                // is formatted.
                let words = |error: Box<dyn Error + Send + Sync>| foreign::words(&*error);
                let signed = signer.0.call(|signer| signer(message).map_err(words));
                let signed = signed.map_err(|_panic| SignError::Failed("it panicked".into()))?;
                let signed = signed.map_err(|words| SignError::Failed(words.into()))?;
                let signature = Signature::from_bytes(&signed);
                match public.verify_strict(message, &signature) {
                    Ok(()) => Ok(signature),
                    Err(_) => Err(SignError::Wrong),
                }
            }
        }
    }
}

/// Parses a key. Returns `None` if the bytes are no Ed25519 private key in PEM (PKCS#8).
fn parse_key(pem: &[u8]) -> Option<SigningKey> {
    let pem = std::str::from_utf8(pem).ok()?;
    let pair = KeypairBytes::from_pkcs8_pem(pem).ok()?;
    SigningKey::try_from(&pair).ok()
}

/// Creates a key's file. It is written and synced under a temporary name, then linked to `path`,
/// which fails if another process was faster.
fn create_key(path: &Path) -> Result<(), KeyError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let pem = generate_key(path)?;
    // Checks that names can be made durable before anything is created.
    sync_directory(directory)?;
    let temporary = directory.join(temporary_name()?);
    let linked =
        write_new(&temporary, pem.as_bytes()).and_then(|()| std::fs::hard_link(&temporary, path));
    // Best effort: when the file could not even be made, there is nothing to remove.
    let _removed = std::fs::remove_file(&temporary);
    let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    // Also if the file existed: its creator may not have synced it yet.
    let synced = sync_directory(directory);
    match linked {
        Err(error) if exists(&error) => synced.and(Err(KeyError::Exists { path: path.into() })),
        Err(error) => Err(file_error(path, "create", error)),
        Ok(()) => synced,
    }
}

/// Generates a key in PKCS#8 version 1, without the public key: the form that OpenSSL reads and
/// writes itself.
fn generate_key(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mut secret = Zeroizing::new([0; 32]);
    fill_random(secret.as_mut_slice())?;
    KeypairBytes {
        secret_key: *secret,
        public_key: None,
    }
    .to_pkcs8_pem(LineEnding::LF)
    .map_err(|error| file_error(path, "encode", io::Error::other(error.to_string())))
}

fn temporary_name() -> Result<String, KeyError> {
    let mut random = [0; 8];
    fill_random(&mut random)?;
    Ok(format!(".trail-key-{}.new", hex::encode(random)))
}

/// Fills `out` from the system's random generator.
///
/// # Errors
///
/// [`KeyError::Random`] if the generator failed.
pub fn fill_random(out: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(out).map_err(|error| KeyError::Random {
        source: error
            .raw_os_error()
            .map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error),
    })
}

impl fmt::Debug for TrailKey {
    /// Only the public half is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrailKey({})", hex::encode(self.verifying_key()))
    }
}

#[cfg(test)]
mod tests;
