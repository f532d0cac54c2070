//! The seal: the digest of a shard and its circumstances, authenticated with HMAC-SHA256.
//!
//! The seal keeps the digest, the provenance it was compared with, the time, and a tag. The tag
//! covers these and everything that identifies the shard. Each check builds the encoding again from
//! what the shard *is now*. So a changed field, another shard's seal, or a seal of another manager,
//! worker or key has the wrong tag. The tag detects corruption and confusion inside this process.
//! Not defended: an attacker who can run code in this process.
//!
//! A `Match` proves that freshly computed bytes equal a seal with the right tag. Only this module
//! makes one. This module does not know where digests come from or what follows from a match.

use subtle::ConstantTimeEq;
use vram_digest::{Digest, StreamDigest};
use vram_trail::clock::Time;

use crate::event::Subject;
use crate::id::{ModelRef, WorkerId};

pub(crate) use self::hmac::SealKey;

mod hmac;

/// The first bytes of every encoding. Nothing else is authenticated with this key and this prefix.
const DOMAIN: &[u8] = b"vram-residency seal\0";

/// The version of the encoding.
const FORMAT: u32 = 1;

/// The expected digest of a shard at sealing.
///
/// There is no default. A digest that is compared with nothing proves only that the bytes stay the
/// same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Provenance {
    /// The fs-verity digest that the shard must have, as `fsverity digest` prints it for the file.
    FsVerity(Digest),
    /// The plain SHA-256 of the stream that was loaded, as model registries publish it and
    /// `sha256sum` prints it. Needs a load with
    /// [`Stream::WithSha256`](vram_digest::Stream::WithSha256).
    Sha256(StreamDigest),
    /// No expectation: the content of the shard is taken as right.
    ///
    /// A manager built with [`require_pinned`](crate::manager::VramManagerBuilder::require_pinned)
    /// refuses it.
    UnpinnedFirstUse,
}

impl Provenance {
    /// Returns the name used in records: `fs_verity`, `sha256` or `unpinned_first_use`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FsVerity(_) => "fs_verity",
            Self::Sha256(_) => "sha256",
            Self::UnpinnedFirstUse => "unpinned_first_use",
        }
    }

    fn digest(&self) -> &[u8] {
        match self {
            Self::FsVerity(digest) => digest.as_bytes(),
            Self::Sha256(digest) => digest.as_bytes(),
            Self::UnpinnedFirstUse => &[],
        }
    }
}

/// The identity of a shard without its bytes: the part of the encoding that the seal does not keep.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) key: &'a SealKey,
    pub(crate) worker: &'a WorkerId,
    pub(crate) subject: &'a Subject,
    /// The full identity of the device; the name in `subject` may be shorter.
    pub(crate) device: &'a str,
    pub(crate) len: u64,
    pub(crate) model: &'a ModelRef,
    pub(crate) epoch: &'a [u8; 16],
}

/// A digest with its circumstances, and a tag over all of them.
#[derive(Debug)]
pub(crate) struct Seal {
    digest: Digest,
    provenance: Provenance,
    sealed: Time,
    tag: [u8; 32],
}

/// The tag does not fit the seal, the shard or the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the tag does not fit the seal, the shard or the key")]
pub(crate) struct BadTag;

/// A seal whose tag was found right.
#[derive(Debug)]
pub(crate) struct Authentic<'a>(&'a Seal);

/// Proof that a digest of the device's bytes equals the digest in an authentic seal.
#[derive(Debug)]
pub(crate) struct Match(());

impl Seal {
    pub(crate) fn new(
        context: &Context<'_>,
        digest: Digest,
        provenance: Provenance,
        sealed: Time,
    ) -> Self {
        let unsigned = Self {
            digest,
            provenance,
            sealed,
            tag: [0; 32],
        };
        let tag = context.key.tag(&unsigned.statement(context).encode());
        Self { tag, ..unsigned }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn sealed(&self) -> Time {
        self.sealed
    }

    /// Checks the tag against what the shard is now.
    pub(crate) fn authenticate(&self, context: &Context<'_>) -> Result<Authentic<'_>, BadTag> {
        let message = self.statement(context).encode();
        if context.key.accepts(&message, &self.tag) {
            Ok(Authentic(self))
        } else {
            Err(BadTag)
        }
    }

    fn statement<'a>(&'a self, context: &Context<'a>) -> Statement<'a> {
        Statement {
            format: FORMAT,
            key: *context.key.id().as_bytes(),
            worker: context.worker.as_str(),
            shard: context.subject.shard.as_str(),
            allocation: context.subject.allocation,
            device: context.device,
            len: context.len,
            digest: *self.digest.as_bytes(),
            provenance: self.provenance.name(),
            provenance_digest: self.provenance.digest(),
            model: context.model.name(),
            model_index: context.model.index(),
            model_total: context.model.total(),
            sealed: self.sealed.unix_nanoseconds(),
            epoch: *context.epoch,
        }
    }
}

impl Authentic<'_> {
    /// Compares a freshly computed digest with the sealed one, in constant time.
    pub(crate) fn compare(self, fresh: &Digest) -> Option<Match> {
        let equal: bool = self.0.digest.as_bytes().ct_eq(fresh.as_bytes()).into();
        equal.then_some(Match(()))
    }
}

/// Everything that a tag covers.
struct Statement<'a> {
    format: u32,
    key: [u8; 8],
    worker: &'a str,
    shard: &'a str,
    allocation: u64,
    device: &'a str,
    len: u64,
    digest: [u8; 32],
    provenance: &'static str,
    provenance_digest: &'a [u8],
    model: &'a str,
    model_index: u32,
    model_total: u32,
    sealed: i64,
    epoch: [u8; 16],
}

impl Statement<'_> {
    /// Returns the canonical encoding.
    ///
    /// Each field is its number (1 byte), its length in bytes (8 bytes, little-endian) and its
    /// value. Numbers are little-endian. Two statements that differ in any field have different
    /// encodings. The code destructures the statement, so that no field can be forgotten.
    fn encode(&self) -> Vec<u8> {
        let Self {
            format,
            key,
            worker,
            shard,
            allocation,
            device,
            len,
            digest,
            provenance,
            provenance_digest,
            model,
            model_index,
            model_total,
            sealed,
            epoch,
        } = self;
        let fields: [(u8, &[u8]); 15] = [
            (1, &format.to_le_bytes()),
            (2, key),
            (3, worker.as_bytes()),
            (4, shard.as_bytes()),
            (5, &allocation.to_le_bytes()),
            (6, device.as_bytes()),
            (7, &len.to_le_bytes()),
            (8, digest),
            (9, provenance.as_bytes()),
            (10, provenance_digest),
            (11, model.as_bytes()),
            (12, &model_index.to_le_bytes()),
            (13, &model_total.to_le_bytes()),
            (14, &sealed.to_le_bytes()),
            (15, epoch),
        ];
        let mut encoding = DOMAIN.to_vec();
        for (number, value) in fields {
            encoding.push(number);
            encoding.extend_from_slice(&(value.len() as u64).to_le_bytes());
            encoding.extend_from_slice(value);
        }
        encoding
    }
}

/// The target of [`dangerous_tamper`](crate::shard::Shard::dangerous_tamper): each field that the
/// seal covers, the tag, or the key.
///
/// A field that the seal keeps is changed in place. For a field of the shard or the manager, the
/// seal gets a tag that is right for another value. That is the tag of a seal made elsewhere.
#[cfg(feature = "fault-injection")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tamper {
    /// The number of the allocation.
    Allocation,
    /// The device's name.
    Device,
    /// One bit of the digest.
    Digest,
    /// The manager's epoch.
    Epoch,
    /// The version of the encoding.
    Format,
    /// The secret key, but not its id.
    Key,
    /// The id of the key.
    KeyId,
    /// The shard's length.
    Len,
    /// The index of the part of the model.
    ModelIndex,
    /// The model's name.
    ModelName,
    /// The number of parts of the model.
    ModelTotal,
    /// The kind of provenance.
    Provenance,
    /// The digest in the provenance.
    ProvenanceDigest,
    /// The time of sealing, by one nanosecond.
    SealedTime,
    /// The shard's name.
    Shard,
    /// One bit of the tag, numbered from 0 to 255.
    Tag(u8),
    /// The worker's name.
    Worker,
}

#[cfg(feature = "fault-injection")]
impl Seal {
    pub(crate) fn tamper(&mut self, context: &Context<'_>, tamper: Tamper) {
        match tamper {
            Tamper::Digest => flip(&mut self.digest),
            Tamper::Provenance => {
                self.provenance = match self.provenance {
                    Provenance::UnpinnedFirstUse => Provenance::FsVerity(self.digest),
                    _ => Provenance::UnpinnedFirstUse,
                }
            }
            Tamper::SealedTime => {
                self.sealed = Time::from_unix_nanoseconds(self.sealed.unix_nanoseconds() ^ 1);
            }
            Tamper::Tag(bit) => {
                if let Some(byte) = self.tag.get_mut(usize::from(bit / 8)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Tamper::Key => {
                if let Ok(token) = crate::key::WorkerToken::generate() {
                    let other = SealKey::derive(&token, context.worker);
                    self.tag = other.tag(&self.statement(context).encode());
                }
            }
            elsewhere => self.tag = self.foreign_tag(context, elsewhere),
        }
    }

    /// Returns the tag of a shard that differs from this one in one field.
    fn foreign_tag(&self, context: &Context<'_>, tamper: Tamper) -> [u8; 32] {
        let mut statement = self.statement(context);
        match tamper {
            Tamper::Allocation => statement.allocation ^= 1,
            Tamper::Device => statement.device = "elsewhere",
            Tamper::Epoch => statement.epoch = statement.epoch.map(|byte| !byte),
            Tamper::Format => statement.format ^= 1,
            Tamper::KeyId => statement.key = statement.key.map(|byte| !byte),
            Tamper::Len => statement.len ^= 1,
            Tamper::ModelIndex => statement.model_index ^= 1,
            Tamper::ModelName => statement.model = "another/model",
            Tamper::ModelTotal => statement.model_total ^= 1,
            Tamper::ProvenanceDigest => statement.provenance_digest = &[0x5a; 32],
            Tamper::Shard => statement.shard = "another-shard",
            Tamper::Worker => statement.worker = "another-worker",
            Tamper::Digest
            | Tamper::Key
            | Tamper::Provenance
            | Tamper::SealedTime
            | Tamper::Tag(_) => {}
        }
        context.key.tag(&statement.encode())
    }
}

#[cfg(feature = "fault-injection")]
fn flip(digest: &mut Digest) {
    let mut bytes = *digest.as_bytes();
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
    *digest = Digest::from_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::key::WorkerToken;

    const DIGEST: Digest = Digest::from_bytes([0xd1; 32]);

    struct Parts {
        key: SealKey,
        worker: WorkerId,
        subject: Subject,
        model: ModelRef,
    }

    fn parts() -> Parts {
        let worker = "w-1".parse().unwrap();
        Parts {
            key: SealKey::derive(&WorkerToken::new(vec![7; 32].into()).unwrap(), &worker),
            worker,
            subject: Subject::new("s-0".parse().unwrap(), 3, Arc::from("host")),
            model: ModelRef::new("org/model", 1, 4).unwrap(),
        }
    }

    impl Parts {
        fn context(&self) -> Context<'_> {
            Context {
                key: &self.key,
                worker: &self.worker,
                subject: &self.subject,
                device: "host",
                len: 4097,
                model: &self.model,
                epoch: &[9; 16],
            }
        }
    }

    fn seal(parts: &Parts) -> Seal {
        let provenance = Provenance::Sha256(StreamDigest::from_bytes([0x5e; 32]));
        Seal::new(
            &parts.context(),
            DIGEST,
            provenance,
            Time::from_unix_nanoseconds(1_700_000_000_000_000_007),
        )
    }

    /// The expected tag was computed with Python's `hmac` and `struct` from the documented layout.
    #[test]
    fn the_tag_is_hmac_sha256_over_the_documented_encoding() {
        let parts = parts();
        assert_eq!(
            hex::encode(seal(&parts).tag),
            "dece9dca12fe9fcbe46a95bb46d846b1e749622de699487a7a1bfa1eec61b55b"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn equal_bytes_match_and_others_do_not() {
        let parts = parts();
        let seal = seal(&parts);
        let compare = |digest| {
            let authentic = seal.authenticate(&parts.context()).unwrap();
            authentic.compare(&digest).is_some()
        };
        assert!(compare(DIGEST));
        for bit in 0..256 {
            let mut bytes = [0xd1; 32];
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!compare(Digest::from_bytes(bytes)), "bit {bit}");
        }
    }

    #[test]
    fn a_seal_is_not_authentic_for_anything_else() {
        let parts = parts();
        let seal = seal(&parts);
        let fails = |context: Context<'_>| seal.authenticate(&context).unwrap_err() == BadTag;
        let own = parts.context();
        let other = super::tests::parts();
        let model = |name, index, total| ModelRef::new(name, index, total).unwrap();
        let key = SealKey::derive(
            &WorkerToken::new(vec![8; 32].into()).unwrap(),
            &parts.worker,
        );
        assert!(seal.authenticate(&other.context()).is_ok());
        assert!(fails(Context { key: &key, ..own }));
        assert!(fails(Context {
            worker: &"w-2".parse().unwrap(),
            ..own
        }));
        assert!(fails(Context { len: 4096, ..own }));
        assert!(fails(Context {
            epoch: &[8; 16],
            ..own
        }));
        assert!(fails(Context {
            model: &model("org/mode", 1, 4),
            ..own
        }));
        assert!(fails(Context {
            model: &model("org/model", 2, 4),
            ..own
        }));
        assert!(fails(Context {
            model: &model("org/model", 1, 5),
            ..own
        }));
        assert!(fails(Context {
            subject: &Subject::new("s-0".parse().unwrap(), 4, "host".into()),
            ..own
        }));
        assert!(fails(Context {
            device: "cuda:0",
            ..own
        }));
        assert!(fails(Context {
            subject: &Subject::new("s-1".parse().unwrap(), 3, "host".into()),
            ..own
        }));
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_seal_with_a_changed_bit_is_not_authentic() {
        let parts = parts();
        for bit in 0..256 {
            let mut seal = seal(&parts);
            seal.tag[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.authenticate(&parts.context()).unwrap_err(), BadTag);
        }
        let changed = |change: fn(&mut Seal)| {
            let mut seal = seal(&parts);
            change(&mut seal);
            seal.authenticate(&parts.context()).is_err()
        };
        assert!(changed(|seal| seal.digest = Digest::from_bytes([0xd0; 32])));
        assert!(changed(|seal| seal.sealed = Time::from_unix_nanoseconds(1)));
        assert!(changed(
            |seal| seal.provenance = Provenance::UnpinnedFirstUse
        ));
        assert!(changed(
            |seal| seal.provenance = Provenance::FsVerity(Digest::from_bytes([0x5e; 32]))
        ));
    }
}
