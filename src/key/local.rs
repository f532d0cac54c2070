//! A trail key that is in this process, and the faster of two ways to sign with it.
//!
//! A durable record waits for its signature, so signing is done by graviola where the processor can:
//! it takes about half of ed25519-dalek's time. Ed25519 has one signature for a message and a key, so
//! both must agree; a key with which they do not is left to ed25519-dalek, as on older processors.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use graviola::signing::eddsa::Ed25519SigningKey;
use graviola::util::is_cpu_supported;

use super::SignError;

/// What both sign when a key is loaded.
const PROBE: &[u8] = b"vram-residency: both signatures of this text must be equal\n";

/// An Ed25519 key. Wiped when it goes.
pub(super) struct LocalKey {
    key: SigningKey,
    fast: Option<Ed25519SigningKey>,
}

impl LocalKey {
    pub(super) fn new(key: SigningKey) -> Self {
        let fast = fast_key(&key);
        Self { key, fast }
    }

    pub(super) fn verifying_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        match &self.fast {
            Some(fast) => Ok(Signature::from_bytes(&fast.sign(message))),
            None => self
                .key
                .try_sign(message)
                .map_err(|error| SignError::Failed(error.into())),
        }
    }

    #[cfg(test)]
    pub(super) fn secret(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
}

/// The same key for graviola, which panics on a processor that lacks what it needs.
fn fast_key(key: &SigningKey) -> Option<Ed25519SigningKey> {
    if !is_cpu_supported() {
        return None;
    }
    let fast = Ed25519SigningKey::from_bytes(key.as_bytes()).ok()?;
    let expected = key.try_sign(PROBE).ok()?;
    if fast.sign(PROBE) != expected.to_bytes() {
        tracing::error!(
            "two implementations of Ed25519 sign the same text differently on this processor; the trail is signed by the portable one: check some of it, and the machine"
        );
        return None;
    }
    Some(fast)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, tests 1 to 3 and "SHA(abc)": secret key, message, signature.
    const VECTORS: [[&str; 3]; 4] = [
        [
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ],
        [
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ],
        [
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ],
        [
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ],
    ];

    #[test]
    fn both_ways_sign_as_rfc_8032_says() {
        for [secret, message, signature] in VECTORS {
            let secret: [u8; 32] = hex::decode(secret).unwrap().try_into().unwrap();
            let message = hex::decode(message).unwrap();
            let mut key = LocalKey::new(SigningKey::from_bytes(&secret));
            assert_eq!(key.fast.is_some(), is_cpu_supported());
            let ways = [key.fast.take(), None];
            for fast in ways {
                key.fast = fast;
                let signed = key.sign(&message).unwrap().to_bytes();
                assert_eq!(hex::encode(signed), signature);
            }
        }
    }
}
