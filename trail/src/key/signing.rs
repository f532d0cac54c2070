//! A trail key in this process's memory, and the faster of two libraries to sign with it.
//!
//! A durable record waits for its signature, so graviola signs where the processor supports it: it
//! takes about half of ed25519-dalek's time. Ed25519 has one signature for a message and a key, so
//! both must agree. If they do not agree for a key, ed25519-dalek signs, as on older processors.
//!
//! A signer with a flipped bit reveals its key: two signatures of one text, one of them wrong, are
//! enough to compute it. So each signature is verified here, under a copy of the public key that
//! the signers do not use. A wrong one never leaves this module. The faster library verifies its
//! own signatures: right after a write to the disk this takes some 12 µs less than with
//! ed25519-dalek.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use graviola::signing::eddsa::{Ed25519SigningKey, Ed25519VerifyingKey};
use graviola::util::is_cpu_supported;

use super::SignError;
use crate::foreign;

/// The text that both libraries sign when a key is loaded.
const PROBE: &[u8] = b"vram-residency: both signatures of this text must be equal\n";

/// An Ed25519 key. Wiped on drop.
pub(super) struct LocalKey {
    key: SigningKey,
    fast: Option<Fast>,
    public: VerifyingKey,
    #[cfg(feature = "fault-injection")]
    flips: Flips,
}

/// The same key for graviola.
struct Fast {
    key: Ed25519SigningKey,
    public: Ed25519VerifyingKey,
}

/// Selects the future signatures that get a flipped bit.
#[cfg(feature = "fault-injection")]
#[derive(Default)]
struct Flips {
    good_before: u32,
    left: u32,
}

impl LocalKey {
    pub(super) fn new(key: SigningKey) -> Self {
        let fast = fast_key(&key);
        let public = key.verifying_key();
        Self {
            key,
            fast,
            public,
            #[cfg(feature = "fault-injection")]
            flips: Flips::default(),
        }
    }

    pub(super) fn verifying_key(&self) -> VerifyingKey {
        self.public
    }

    /// Signs with the faster signer, and falls back to the other one if the signature is wrong.
    pub(super) fn sign(&mut self, message: &[u8]) -> Result<Signature, SignError> {
        if let Some(fast) = &self.fast {
            let signature = fast.key.sign(message);
            #[cfg(feature = "fault-injection")]
            let signature = self.flips.strike(signature);
            if fast.public.verify(&signature, message).is_ok() {
                return Ok(Signature::from_bytes(&signature));
            }
            self.give_up_fast();
        }
        let signature = self.key.try_sign(message);
        let signature = signature.map_err(|error| SignError::Failed(error.into()))?;
        #[cfg(feature = "fault-injection")]
        let signature = Signature::from_bytes(&self.flips.strike(signature.to_bytes()));
        match self.public.verify_strict(message, &signature) {
            Ok(()) => Ok(signature),
            Err(_) => Err(SignError::Wrong),
        }
    }

    #[cold]
    fn give_up_fast(&mut self) {
        foreign::log(|| {
            tracing::error!(target: crate::LOG,
                "the faster signer of the trail's key made a wrong signature, which was thrown away; the trail is signed by the portable one: check the machine's memory and processor"
            );
        });
        self.fast = None;
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn flip(&mut self, good_before: u32, left: u32) {
        self.flips = Flips { good_before, left };
    }

    #[cfg(test)]
    pub(super) fn secret(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
}

#[cfg(feature = "fault-injection")]
impl Flips {
    fn strike(&mut self, mut signature: [u8; 64]) -> [u8; 64] {
        if let Some(before) = self.good_before.checked_sub(1) {
            self.good_before = before;
        } else if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            // This half is computed from the secret.
            if let Some(byte) = signature.get_mut(40) {
                *byte ^= 1 << 3;
            }
        }
        signature
    }
}

/// Returns the same key for graviola, which panics on a processor without the needed instructions.
fn fast_key(key: &SigningKey) -> Option<Fast> {
    if !is_cpu_supported() {
        return None;
    }
    let expected = key.try_sign(PROBE).ok()?.to_bytes();
    let fast = Fast {
        key: Ed25519SigningKey::from_bytes(key.as_bytes()).ok()?,
        public: Ed25519VerifyingKey::from_bytes(key.verifying_key().as_bytes()).ok()?,
    };
    let signs = fast.key.sign(PROBE) == expected;
    let verifies = fast.public.verify(&expected, PROBE).is_ok();
    let refuses = fast.public.verify(&expected, &[]).is_err();
    if !(signs && verifies && refuses) {
        foreign::log(|| {
            tracing::error!(target: crate::LOG,
                "two implementations of Ed25519 sign or verify the same text differently on this processor; the trail is signed by the portable one: check some of it, and the machine"
            );
        });
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
    #[cfg_attr(miri, ignore = "signs too much")]
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

    /// The signer holds another secret than the key, as after a bit flip.
    #[test]
    #[cfg_attr(miri, ignore = "signs too much")]
    fn a_signer_that_errs_is_given_up_and_the_other_one_signs() {
        let [one, two] = [[1; 32], [2; 32]].map(|secret| SigningKey::from_bytes(&secret));
        let mut key = LocalKey::new(one.clone());
        let erring = LocalKey::new(two.clone()).fast;
        key.fast = key.fast.zip(erring).map(|(fast, erring)| Fast {
            key: erring.key,
            ..fast
        });
        let signature = key.sign(b"root").unwrap();
        assert_eq!(signature, one.try_sign(b"root").unwrap());
        assert!(key.fast.is_none());
        // Now both secrets differ from the key.
        key.key = two;
        assert!(matches!(key.sign(b"root"), Err(SignError::Wrong)));
    }
}
