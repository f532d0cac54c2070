//! The key of the seals, and the HMAC-SHA256 tags that it makes.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use vram_trail::key::Custody;
use zeroize::Zeroizing;

use crate::id::WorkerId;
use crate::key::{KeyId, WorkerToken};

/// The key of the seals' tags. Derived from the token for one worker; never leaves the crate.
pub(crate) struct SealKey {
    key: SecretBox<[u8; 32]>,
    id: KeyId,
    token: Custody,
}

impl SealKey {
    /// HKDF-SHA256 of the token; the label holds crate, version, use and worker.
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

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}
