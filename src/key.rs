//! Keys: the worker's token, the seal key that comes out of it, and the key that signs the trail.
//!
//! Secrets live in types that do not print, copy, compare or serialize, and that are wiped when
//! they go (copies in registers, stack and swap are beyond reach). This module knows where keys come
//! from and whose files may be trusted; it does not know what is sealed or written with them.

use std::fmt;
use std::path::Path;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretSlice};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use vram_trail::key::{Custody, fill_random, read_secret};
use zeroize::Zeroizing;

use crate::id::WorkerId;

pub use vram_trail::key::{FileAccess, KeyError, SignError, TrailKey};

/// The fewest bytes that a [`WorkerToken`] may have.
pub const MIN_TOKEN_BYTES: usize = 32;

/// The most bytes that are read from a token's file.
pub const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// The version of the derivations below; a new one gives new keys and new names of keys.
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

/// The name of a seal key: tells keys apart and reveals nothing of them.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct KeyId([u8; 8]);

/// The key of the seals' tags. Derived from the token for one worker; never leaves the crate.
pub(crate) struct SealKey {
    key: SecretBox<[u8; 32]>,
    id: KeyId,
    token: Custody,
}

impl WorkerToken {
    /// Takes a secret of at least [`MIN_TOKEN_BYTES`].
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

    /// A new token: 32 bytes of the system's generator. It lives as long as the value does, which
    /// is long enough, since no seal outlives its process.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = vec![0; MIN_TOKEN_BYTES];
        fill_random(&mut secret)?;
        Self::new(secret.into())
    }

    /// Reads a token from a file: its raw bytes, a newline at the end included.
    ///
    /// Symbolic links are followed (a mounted Kubernetes secret is one). The file must be regular,
    /// belong to the process's effective user or to root, be closed to others, and to its group
    /// unless `access` says otherwise; it may hold at most [`MAX_TOKEN_FILE_BYTES`]. The choice is on
    /// record with every seal (`token_access`).
    pub fn from_file(path: impl AsRef<Path>, access: FileAccess) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let bytes = read_secret(path, access, MAX_TOKEN_FILE_BYTES)?;
        Ok(Self {
            custody: access.into(),
            ..Self::new(SecretSlice::from(bytes.to_vec()))?
        })
    }
}

impl KeyId {
    pub(crate) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl SealKey {
    /// HKDF-SHA256 of the token; the label holds crate, version, use and worker.
    pub(crate) fn derive(token: &WorkerToken, worker: &WorkerId) -> Self {
        let mut id = [0; 8];
        derive(token, "key-id", worker, &mut id);
        Self {
            key: SecretBox::init_with_mut(|key: &mut [u8; 32]| {
                derive(token, "seal-tag", worker, key);
            }),
            id: KeyId(id),
            token: token.custody,
        }
    }

    /// Who could read the token that the key is derived from.
    pub(crate) fn token_custody(&self) -> Custody {
        self.token
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    /// The HMAC-SHA256 tag of `message`.
    pub(crate) fn tag(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether `tag` is the tag of `message`, in a time that does not tell where it differs.
    pub(crate) fn accepts(&self, message: &[u8], tag: &[u8; 32]) -> bool {
        self.tag(message).ct_eq(tag).into()
    }

    /// Built for each use: `Hmac` can be cloned and would outlive the key's own wiping.
    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        // A key of a block's size needs no fallible constructor. HMAC pads a shorter key with zeros
        // (RFC 2104), which is what the rest of the block holds.
        let mut key = Zeroizing::new([0; 64]);
        for (to, from) in key.iter_mut().zip(self.key.expose_secret()) {
            *to = *from;
        }
        Hmac::<Sha256>::new((&*key).into()).chain_update(message)
    }
}

/// HKDF-SHA256 with an info in which no two uses and workers can be confused: the texts before the
/// worker hold no NUL, and the worker's length follows from that of the whole.
fn derive(token: &WorkerToken, usage: &str, worker: &WorkerId, out: &mut [u8]) {
    let info = [
        DERIVATION.as_bytes(),
        b"\0",
        usage.as_bytes(),
        b"\0",
        worker.as_str().as_bytes(),
    ];
    let hkdf = Hkdf::<Sha256>::new(None, token.secret.expose_secret());
    // It fails for more than 255 * 32 bytes only; both callers ask for at most 32.
    let expanded = hkdf.expand_multi_info(&info, out);
    debug_assert!(expanded.is_ok());
}

impl fmt::Debug for WorkerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerToken(..)")
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}

impl fmt::Display for KeyId {
    /// 16 hexadecimal digits.
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
