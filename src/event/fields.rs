//! The parts of events that several of them share, and those with many fields.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use vram_digest::{Digest, StreamDigest};
use vram_trail::clock::Time;
use vram_trail::key::Custody;
use vram_trail::{Seq, Text};

use super::MAX_LISTED_RANGES;
use crate::id::{ModelRef, ShardId};

/// The shard of an event. Events are moved and queued by the thousand, so they hold it by one
/// reference.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Subject(Arc<Names>);

/// The names of a shard.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Names {
    pub(crate) shard: ShardId,
    pub(crate) allocation: u64,
    pub(crate) device: Arc<str>,
}

impl Subject {
    pub(crate) fn new(shard: ShardId, allocation: u64, device: Arc<str>) -> Self {
        Self(Arc::new(Names {
            shard,
            allocation,
            device,
        }))
    }

    /// Returns whether it is the same shard of the same trail.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::ops::Deref for Subject {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.0
    }
}

/// The reason why a verification failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A check had no outcome within its deadline, and there is no maximum age that would end
    /// leases. Whether the bytes are good is unknown.
    DeadlineExceeded,
    /// The device failed in a way that implies something about the bytes.
    DeviceError,
    /// The device's bytes have another digest than the sealed one.
    DigestMismatch,
    /// The verification was left without an outcome: a panic, or an early return.
    Interrupted,
    /// At sealing, the bytes did not match the provenance, or the stream.
    ProvenanceMismatch,
    /// The seal's tag does not fit the seal, the shard or the key.
    SignatureInvalid,
    /// The device's own digest is right, but a window that was copied back and hashed by this
    /// process differs from the sealed one: the device computes or copies wrongly.
    SpotCheckMismatch,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::DeviceError => "device_error",
            Self::DigestMismatch => "digest_mismatch",
            Self::Interrupted => "interrupted",
            Self::ProvenanceMismatch => "provenance_mismatch",
            Self::SignatureInvalid => "signature_invalid",
            Self::SpotCheckMismatch => "spot_check_mismatch",
        })
    }
}

/// The content of a failed verification's record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) reason: Reason,
    /// The operation: `seal`, `verify`, `reverify`, `verify_window`, `check`, `check_window`.
    pub(crate) operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<AnyDigest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<AnyDigest>,
    #[serde(flatten)]
    pub(crate) history: History,
    /// How many windows differ from the kept tree.
    pub(crate) damaged_windows: u64,
    /// These windows as half-open ranges, the first [`MAX_LISTED_RANGES`] of them.
    #[serde(serialize_with = "ranges")]
    pub(crate) damaged: Vec<Range<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<Text>,
    /// The failure was made by the `fault-injection` feature.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) injected: bool,
}

/// When the shard was sealed and last verified, as numbers and times of the records.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_verified_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_verified_time: Option<Time>,
}

/// A digest in a failure: of the device's bytes, or the plain digest of the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum AnyDigest {
    FsVerity(Digest),
    Sha256(StreamDigest),
}

/// This crate's fields of `TrailOpened`.
#[derive(Clone, Debug, Serialize)]
pub struct Opening {
    pub(crate) crate_version: &'static str,
    pub(crate) features: Vec<&'static str>,
    /// The SHA-256 of the kernel for GPUs, as PTX; only where it is compiled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel_sha256: Option<StreamDigest>,
}

/// This crate's fields of `TrailClosed`.
#[derive(Clone, Debug, Serialize)]
pub struct Closing {
    pub(crate) live_shards: u64,
    pub(crate) live: Vec<LiveShard>,
    /// The number of verifications without an outcome.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) open_verifications: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LiveShard {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) bytes: u64,
}

/// The fields of `VramSealed`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sealing {
    #[serde(flatten)]
    pub(crate) model: ModelRef,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
    /// `fs_verity`, `sha256`, or `unpinned_first_use`.
    pub(crate) provenance: &'static str,
    /// The plain SHA-256 that was given as provenance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream_sha256: Option<StreamDigest>,
    pub(crate) sealed_time: Time,
    /// Hexadecimal; names the seal key.
    pub(crate) key_id: Arc<str>,
    /// The access of the token that the seal key is derived from.
    pub(crate) token_access: Custody,
    /// Hexadecimal; random for each manager.
    pub(crate) epoch: Arc<str>,
    pub(crate) read_only: bool,
}

/// The fields of a `PolicyViolation` that this crate records.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<ShardId>,
    pub(crate) policy: Text,
    pub(crate) violation: Text,
    pub(crate) details: Text,
    pub(crate) action: Text,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Writes a number, or the word `unknown`, which cannot be taken for a number.
#[allow(clippy::ref_option, reason = "the form that serde asks for")]
pub(super) fn or_unknown<S: Serializer>(
    bytes: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => serializer.serialize_u64(*bytes),
        None => serializer.serialize_str("unknown"),
    }
}

fn ranges<S: Serializer>(ranges: &[Range<u64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        ranges
            .iter()
            .take(MAX_LISTED_RANGES)
            .map(|range| [range.start, range.end]),
    )
}

impl fmt::Display for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FsVerity(digest) => digest.fmt(f),
            Self::Sha256(digest) => digest.fmt(f),
        }
    }
}
