//! What can be recorded: each event with its fields, their names, and how bad it is.
//!
//! This module knows nothing of numbers, queues, files or checkpoints. Events are private to the
//! crate: code outside cannot claim that something was verified.
//!
//! Values are shared (`Arc<str>`) and rare or large ones are boxed, so that making and moving an
//! ordinary event allocates nothing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::builder::Retention;
use super::clock::Time;
use crate::digest::{Digest, StreamDigest};
use crate::id::{ModelRef, ShardId};

/// The most bytes that the text of a [`note`](super::AuditTrail::note) or one field of a
/// [`policy_violation`](super::AuditTrail::policy_violation) may have.
pub const MAX_TEXT_BYTES: usize = 1024;

/// The most damaged ranges that a record lists; the number of damaged windows is always exact.
pub(crate) const MAX_LISTED_RANGES: usize = 256;

/// The most live shards that `TrailClosed` lists by name; their number is always exact.
pub(crate) const MAX_LISTED_SHARDS: usize = 128;

/// The number of a record in its trail, from 0, given when the record is made.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seq(pub(crate) u64);

impl Seq {
    /// The number itself.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A point in the trail: the number of a record and its time. There is no number if the trail was
/// closed already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mark {
    pub(crate) seq: Option<Seq>,
    pub(crate) time: Time,
}

/// How bad a record's content is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Severity {
    Info,
    Warn,
    Critical,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Success,
    Failure,
}

/// The shard that an event is about. Events are moved and queued by the thousand: they hold it by one
/// reference.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Subject(Arc<Names>);

/// What a shard is called.
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

    /// Whether it is the same shard of the same trail.
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

/// Why a verification failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The device failed in a way that says something about the bytes.
    DeviceError,
    /// The device's bytes have another digest than the one that was sealed.
    DigestMismatch,
    /// The verification was left without an outcome: a panic, or an early return.
    Interrupted,
    /// At sealing, the bytes were not those that the provenance names, or not those of the stream.
    ProvenanceMismatch,
    /// The seal's tag does not fit the seal, the shard or the key.
    SignatureInvalid,
    /// The device's own digest is right, but a window that was copied back and hashed by this process
    /// is not what was sealed: the device computes or copies wrongly.
    SpotCheckMismatch,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceError => "device_error",
            Self::DigestMismatch => "digest_mismatch",
            Self::Interrupted => "interrupted",
            Self::ProvenanceMismatch => "provenance_mismatch",
            Self::SignatureInvalid => "signature_invalid",
            Self::SpotCheckMismatch => "spot_check_mismatch",
        })
    }
}

/// Everything that a failed verification tells.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) reason: Reason,
    /// What was being done: `seal`, `verify`, `reverify`, `verify_window`, `check`, `check_window`.
    pub(crate) operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<AnyDigest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<AnyDigest>,
    #[serde(flatten)]
    pub(crate) history: History,
    /// How many windows differ from the kept tree.
    pub(crate) damaged_windows: u64,
    /// Which ones: half-open ranges, the first [`MAX_LISTED_RANGES`] of them.
    #[serde(serialize_with = "ranges")]
    pub(crate) damaged: Vec<Range<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<Arc<str>>,
    /// The failure was made by the `fault-injection` feature.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) injected: bool,
}

impl Failure {
    /// The device of a shard that is being served was lost.
    pub(crate) fn of_device(subject: Subject, history: History, cause: &Arc<str>) -> Self {
        Self {
            subject,
            reason: Reason::DeviceError,
            operation: "serve",
            expected: None,
            actual: None,
            history,
            damaged_windows: 0,
            damaged: Vec::new(),
            detail: Some(Arc::clone(cause)),
            injected: false,
        }
    }
}

/// When the shard was sealed and last verified: numbers and times of the records.
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

/// A digest in a failure: of the device's bytes, or the plain one of the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum AnyDigest {
    FsVerity(Digest),
    Sha256(StreamDigest),
}

/// What the end of the previous segment was, as the header of the next one states it.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub(crate) struct Previous {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    /// How many bytes may stand behind `end`: what was found there when the trail was opened again,
    /// or what the write had that failed. Version 0.1.0 did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) void: Option<u64>,
    pub(crate) checkpoint: String,
    pub(crate) frontier: Vec<String>,
}

/// The fields of a segment's first record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Header {
    pub(crate) segment: u64,
    pub(crate) first_leaf: u64,
    pub(crate) origin: Arc<str>,
    pub(crate) key: Arc<str>,
    pub(crate) retention: Retention,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Previous>,
}

/// The configuration in force, as `TrailOpened` states it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Configuration {
    pub(crate) crate_version: &'static str,
    pub(crate) features: Vec<&'static str>,
    pub(crate) fault_injection: bool,
    /// The SHA-256 of the kernel for GPUs, as PTX; only where it is compiled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel_sha256: Option<StreamDigest>,
    pub(crate) critical_deadline_ms: u64,
    pub(crate) durable_within_ms: u64,
    pub(crate) queue_records: u64,
    pub(crate) reserved_records: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age_s: u64,
    pub(crate) failure_window_s: u64,
    pub(crate) failure_threshold_per_mille: u16,
    /// The names of the anchors, that of the log first.
    pub(crate) anchors: Vec<Arc<str>>,
    pub(crate) anchor_every_records: u64,
    pub(crate) anchor_every_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LiveShard {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) bytes: u64,
}

/// Records that have a number and are not in the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Lost {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) count: u64,
    pub(crate) cause: LossCause,
    pub(crate) first_time: Time,
    pub(crate) last_time: Time,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LossCause {
    /// There was no room in the queue.
    QueueFull,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    AnchorContradicted {
        anchor: Arc<str>,
        /// `different` or `shorter`: what the trail is.
        contradiction: &'static str,
        /// What the anchor keeps, and this trail's key has signed.
        size: u64,
        root: Arc<str>,
    },
    AnchorFailed {
        anchor: Arc<str>,
        cause: Arc<str>,
        /// The size of the checkpoint that it does not keep.
        size: u64,
    },
    AnchorRecovered {
        anchor: Arc<str>,
        size: u64,
    },
    AuditDegraded {
        /// False when it has ended.
        degraded: bool,
        window_s: u64,
        attempts: u64,
        failures: u64,
    },
    ClockStepped {
        step_ns: i64,
    },
    DeviceFailed {
        #[serde(flatten)]
        subject: Subject,
        operation: &'static str,
        cause: Arc<str>,
    },
    /// A manager was built for a device whose identity and residency are to be on record.
    DeviceOpened {
        device: Arc<str>,
        identity: Arc<str>,
        /// What was found out about where its memory lies, and what could not be.
        proven: Arc<str>,
        unproven: Arc<str>,
    },
    /// The last record under a trail's old key: what follows is signed with another one.
    KeyChanged {
        previous_key: Arc<str>,
        key: Arc<str>,
    },
    Note {
        text: Arc<str>,
    },
    PolicyViolation {
        #[serde(flatten)]
        violation: Box<Violation>,
    },
    RecordsLost {
        #[serde(flatten)]
        lost: Lost,
    },
    SealVerificationFailed {
        #[serde(flatten)]
        failure: Box<Failure>,
    },
    SealVerified {
        #[serde(flatten)]
        subject: Subject,
        operation: &'static str,
        digest: Digest,
        first_window: u64,
        end_window: u64,
        bytes: u64,
    },
    SegmentOpened {
        #[serde(flatten)]
        header: Box<Header>,
    },
    SegmentPoisoned {
        segment: u64,
        operation: &'static str,
        cause: Arc<str>,
    },
    TailRecovered {
        segment: u64,
        void_from: u64,
        void_bytes: u64,
        void_records: u64,
        highest_seq: Seq,
    },
    TrailClosed {
        live_shards: u64,
        live: Vec<LiveShard>,
    },
    TrailOpened {
        #[serde(flatten)]
        header: Box<Header>,
        #[serde(flatten)]
        configuration: Box<Configuration>,
    },
    VerificationInconclusive {
        #[serde(flatten)]
        subject: Subject,
        operation: &'static str,
        cause: Arc<str>,
    },
    VerificationOverdue {
        #[serde(flatten)]
        subject: Subject,
        #[serde(flatten)]
        history: History,
        max_age_ms: u64,
    },
    VramAllocated {
        #[serde(flatten)]
        subject: Subject,
        #[serde(flatten)]
        model: ModelRef,
        requested_bytes: u64,
        allocated_bytes: u64,
        available_bytes: u64,
        used_bytes: u64,
        memory_locked: bool,
    },
    VramAllocationFailed {
        shard: ShardId,
        device: Arc<str>,
        requested_bytes: u64,
        available_bytes: u64,
        reason: Arc<str>,
    },
    VramDeallocated {
        #[serde(flatten)]
        subject: Subject,
        freed_bytes: u64,
        used_bytes: u64,
        wiped: bool,
        freed: bool,
    },
    VramSealed {
        #[serde(flatten)]
        subject: Subject,
        #[serde(flatten)]
        sealed: Box<Sealing>,
    },
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
    /// Hexadecimal; random for each manager.
    pub(crate) epoch: Arc<str>,
    pub(crate) read_only: bool,
}

/// The fields of `PolicyViolation`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<ShardId>,
    pub(crate) policy: Arc<str>,
    pub(crate) violation: Arc<str>,
    pub(crate) details: Arc<str>,
    pub(crate) action: Arc<str>,
}

impl Event {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AnchorContradicted { .. } => "AnchorContradicted",
            Self::AnchorFailed { .. } => "AnchorFailed",
            Self::AnchorRecovered { .. } => "AnchorRecovered",
            Self::AuditDegraded { .. } => "AuditDegraded",
            Self::ClockStepped { .. } => "ClockStepped",
            Self::DeviceFailed { .. } => "DeviceFailed",
            Self::DeviceOpened { .. } => "DeviceOpened",
            Self::KeyChanged { .. } => "KeyChanged",
            Self::Note { .. } => "Note",
            Self::PolicyViolation { .. } => "PolicyViolation",
            Self::RecordsLost { .. } => "RecordsLost",
            Self::SealVerificationFailed { .. } => "SealVerificationFailed",
            Self::SealVerified { .. } => "SealVerified",
            Self::SegmentOpened { .. } => "SegmentOpened",
            Self::SegmentPoisoned { .. } => "SegmentPoisoned",
            Self::TailRecovered { .. } => "TailRecovered",
            Self::TrailClosed { .. } => "TrailClosed",
            Self::TrailOpened { .. } => "TrailOpened",
            Self::VerificationInconclusive { .. } => "VerificationInconclusive",
            Self::VerificationOverdue { .. } => "VerificationOverdue",
            Self::VramAllocated { .. } => "VramAllocated",
            Self::VramAllocationFailed { .. } => "VramAllocationFailed",
            Self::VramDeallocated { .. } => "VramDeallocated",
            Self::VramSealed { .. } => "VramSealed",
        }
    }

    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::AnchorContradicted { .. }
            | Self::AuditDegraded { degraded: true, .. }
            | Self::PolicyViolation { .. }
            | Self::SealVerificationFailed { .. }
            | Self::SegmentPoisoned { .. }
            | Self::TailRecovered { .. }
            | Self::VerificationOverdue { .. } => Severity::Critical,
            Self::AnchorFailed { .. }
            | Self::ClockStepped { .. }
            | Self::DeviceFailed { .. }
            | Self::RecordsLost { .. }
            | Self::VerificationInconclusive { .. }
            | Self::VramAllocationFailed { .. } => Severity::Warn,
            Self::VramDeallocated { wiped, freed, .. } if !(*wiped && *freed) => Severity::Warn,
            Self::AnchorRecovered { .. }
            | Self::AuditDegraded {
                degraded: false, ..
            }
            | Self::DeviceOpened { .. }
            | Self::KeyChanged { .. }
            | Self::Note { .. }
            | Self::SealVerified { .. }
            | Self::SegmentOpened { .. }
            | Self::TrailClosed { .. }
            | Self::TrailOpened { .. }
            | Self::VramAllocated { .. }
            | Self::VramDeallocated { .. }
            | Self::VramSealed { .. } => Severity::Info,
        }
    }

    /// Everything above `INFO` reports a failure.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.severity() {
            Severity::Info => Outcome::Success,
            Severity::Warn | Severity::Critical => Outcome::Failure,
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn is_false(value: &bool) -> bool {
    !value
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
