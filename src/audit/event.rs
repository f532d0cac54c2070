//! What can be recorded: each event with its fields, their names, and how bad it is.
//!
//! This module knows nothing of numbers, queues, files or checkpoints. Events are private to the
//! crate: code outside cannot claim that something was verified.
//!
//! Values are shared (`Arc<str>`) and rare or large ones are boxed, so that making and moving an
//! ordinary event allocates nothing.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use self::fields::Reason;
pub(crate) use self::fields::{
    AnyDigest, By, Configuration, FORMAT, Failure, Header, History, LiveShard, LossCause, Lost,
    Previous, Sealing, Subject, Violation, VoidedCheckpoint,
};
pub(crate) use self::text::Text;
use super::clock::Time;
use crate::digest::Digest;
use crate::id::{ModelRef, ShardId};

mod fields;
mod text;

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

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    AnchorContradicted {
        anchor: Arc<str>,
        /// `different` or `shorter`: what the trail is. Or `unverifiable`: the checkpoint is larger.
        contradiction: &'static str,
        /// What the anchor keeps, and this trail's key has signed, unless it is unverifiable.
        size: u64,
        root: Arc<str>,
    },
    AnchorFailed {
        anchor: Arc<str>,
        cause: Text,
        /// The size of the checkpoint that it does not keep.
        size: u64,
    },
    /// What an anchor remembers was not compared as a whole.
    AnchorPartlyCompared {
        anchor: Arc<str>,
        /// `newest_only`, `origins_unknown` or `unverifiable_ignored`.
        comparison: &'static str,
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
        cause: Text,
    },
    /// A manager was built for a device whose identity and residency are to be on record.
    DeviceOpened {
        device: Arc<str>,
        identity: Text,
        /// What was found out about where its memory lies, and what could not be.
        proven: Text,
        unproven: Text,
    },
    /// The last record under a trail's old key: what follows is signed with another one.
    KeyChanged {
        previous_key: Arc<str>,
        key: Arc<str>,
    },
    Note {
        text: Text,
    },
    /// No number from here on is given before a later record raises the bound.
    NumbersReserved {
        numbers_below: u64,
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
        cause: Text,
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
        /// How many had no outcome.
        #[serde(skip_serializing_if = "fields::is_zero")]
        open_verifications: u64,
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
        cause: Text,
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
        #[serde(serialize_with = "fields::or_unknown")]
        available_bytes: Option<u64>,
        used_bytes: u64,
        memory_locked: bool,
        /// The memory can be in core dumps.
        #[serde(skip_serializing_if = "fields::is_false")]
        dumpable: bool,
    },
    VramAllocationFailed {
        shard: ShardId,
        device: Arc<str>,
        requested_bytes: u64,
        #[serde(serialize_with = "fields::or_unknown")]
        available_bytes: Option<u64>,
        reason: Text,
    },
    VramDeallocated {
        #[serde(flatten)]
        subject: Subject,
        freed_bytes: u64,
        used_bytes: u64,
        wiped: bool,
        freed: bool,
        inherited: bool,
    },
    VramSealed {
        #[serde(flatten)]
        subject: Subject,
        #[serde(flatten)]
        sealed: Box<Sealing>,
    },
}

impl Event {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AnchorContradicted { .. } => "AnchorContradicted",
            Self::AnchorFailed { .. } => "AnchorFailed",
            Self::AnchorPartlyCompared { .. } => "AnchorPartlyCompared",
            Self::AnchorRecovered { .. } => "AnchorRecovered",
            Self::AuditDegraded { .. } => "AuditDegraded",
            Self::ClockStepped { .. } => "ClockStepped",
            Self::DeviceFailed { .. } => "DeviceFailed",
            Self::DeviceOpened { .. } => "DeviceOpened",
            Self::KeyChanged { .. } => "KeyChanged",
            Self::Note { .. } => "Note",
            Self::NumbersReserved { .. } => "NumbersReserved",
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
            | Self::AnchorPartlyCompared { .. }
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
            | Self::NumbersReserved { .. }
            | Self::SealVerified { .. }
            | Self::SegmentOpened { .. }
            | Self::TrailClosed { .. }
            | Self::TrailOpened { .. }
            | Self::VramAllocated { .. }
            | Self::VramDeallocated { .. }
            | Self::VramSealed { .. } => Severity::Info,
        }
    }

    /// Who makes such a record. Only a policy violation can be either's.
    pub(crate) fn by(&self) -> By {
        match self {
            Self::Note { .. } => By::Caller,
            Self::PolicyViolation { violation } => violation.by,
            _ => By::Library,
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
