//! The key of the seals, and the HMAC-SHA256 tags that it makes. What a tag covers is not known
//! here.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use vram_trail::key::Custody;
use zeroize::Zeroizing;

use crate::id::WorkerId;
use crate::key::{KeyId, WorkerToken};

/// The key of the seals' tags. It is derived from the token for one worker, and never leaves the
/// crate.
pub(crate) struct SealKey {
    key: SecretBox<[u8; 32]>,
    id: KeyId,
    token: Custody,
}

impl SealKey {
    /// Derives the key with HKDF-SHA256 from the token. The label holds crate, version, use and
    /// worker.
    pub(crate) fn derive(token: &WorkerToken, worker: &WorkerId) -> Self {
        let mut id = [0; 8];
        token.derive("key-id", worker, &mut id);
        Self {
            key: SecretBox::init_with_mut(|key: &mut [u8; 32]| {
                token.derive("seal-tag", worker, key);
            }),
            id: KeyId::new(id),
            token: token.custody(),
        }
    }

    /// Returns who could read the token that the key is derived from.
    pub(crate) fn token_custody(&self) -> Custody {
        self.token
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the HMAC-SHA256 tag of `message`.
    pub(crate) fn tag(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Returns whether `tag` is the tag of `message`, in constant time.
    pub(crate) fn accepts(&self, message: &[u8], tag: &[u8; 32]) -> bool {
        self.tag(message).ct_eq(tag).into()
    }

    /// Makes the MAC for each use: `Hmac` can be cloned and would outlive the key's own wiping.
    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        // A key of a block's size needs no fallible constructor. HMAC pads a shorter key with zeros
        // (RFC 2104), and the rest of the block holds zeros.
        let mut key = Zeroizing::new([0; 64]);
        for (to, from) in key.iter_mut().zip(self.key.expose_secret()) {
            *to = *from;
        }
        Hmac::<Sha256>::new((&*key).into()).chain_update(message)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}
