//! Keys of a worker: its token, from which the seal key is derived, and, from `vram-trail`, the key that signs the
//! trail.
//!
//! Secrets live in types that do not print, copy, compare or serialize, and that are wiped when dropped. Not
//! defended: copies in registers, stack and swap. This module does not know what is sealed.

use std::fmt;
use std::path::Path;

use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;
use vram_trail::key::{Custody, fill_random, read_secret};

use crate::id::WorkerId;

pub use vram_trail::key::{FileAccess, KeyError, SignError, TrailKey};

/// The fewest bytes that a [`WorkerToken`] may have.
pub const MIN_TOKEN_BYTES: usize = 32;

/// The most bytes that are read from a token's file.
pub const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// The version of the derivations below. A new version gives new keys and new key ids.
const DERIVATION: &str = "vram-residency/1";

/// The worker's secret: at least 32 bytes, from which the key of its seals is derived.
///
/// ```
/// use vram_residency::key::WorkerToken;
///
/// let token = WorkerToken::generate()?;
/// assert_eq!(format!("{token:?}"), "WorkerToken(..)");
/// # Ok::<(), vram_residency::key::KeyError>(())
/// ```
pub struct WorkerToken {
    secret: SecretSlice<u8>,
    custody: Custody,
}

/// The id of a seal key. It tells keys apart and reveals nothing of them.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct KeyId([u8; 8]);

impl WorkerToken {
    /// Takes a secret of at least [`MIN_TOKEN_BYTES`] bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::TokenTooShort`] if the secret is shorter.
    pub fn new(secret: SecretSlice<u8>) -> Result<Self, KeyError> {
        let len = secret.expose_secret().len();
        if len < MIN_TOKEN_BYTES {
            return Err(KeyError::TokenTooShort {
                len,
                min: MIN_TOKEN_BYTES,
            });
        }
        Ok(Self {
            secret,
            custody: Custody::Memory,
        })
    }

    /// Generates a token: 32 bytes of the system's random generator. It lives as long as the value
    /// does, which is long enough, since no seal outlives its process.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] if the system's random generator failed.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = vec![0; MIN_TOKEN_BYTES];
        fill_random(&mut secret)?;
        Self::new(secret.into())
    }

    /// Reads a token from a file: its raw bytes, a newline at the end included.
    ///
    /// Symbolic links are followed (a mounted Kubernetes secret is one). The file must:
    ///
    /// * be regular,
    /// * belong to the process's effective user or to root,
    /// * be closed to others, and to its group unless `access` allows it,
    /// * hold at most [`MAX_TOKEN_FILE_BYTES`] bytes.
    ///
    /// Every seal's record states the choice (`token_access`).
    ///
    /// # Errors
    ///
    /// [`KeyError`] with the cause and what to do.
    pub fn from_file(path: impl AsRef<Path>, access: FileAccess) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let bytes = read_secret(path, access, MAX_TOKEN_FILE_BYTES)?;
        Ok(Self {
            custody: access.into(),
            ..Self::new(SecretSlice::from(bytes.to_vec()))?
        })
    }

    /// Returns who could read the token at its source.
    pub(crate) fn custody(&self) -> Custody {
        self.custody
    }

    /// Derives at most 32 bytes with HKDF-SHA256. No two uses and workers have the same info: the texts before the
    /// worker hold no NUL, and the worker's length follows from the length of the whole.
    pub(crate) fn derive(&self, usage: &str, worker: &WorkerId, out: &mut [u8]) {
        let info = [
            DERIVATION.as_bytes(),
            b"\0",
            usage.as_bytes(),
            b"\0",
            worker.as_str().as_bytes(),
        ];
        let hkdf = Hkdf::<Sha256>::new(None, self.secret.expose_secret());
        // It fails only for more than 255 * 32 bytes.
        let expanded = hkdf.expand_multi_info(&info, out);
        debug_assert!(expanded.is_ok());
    }
}

impl KeyId {
    pub(crate) fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for WorkerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerToken(..)")
    }
}

impl fmt::Display for KeyId {
    /// Formats as 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests;
