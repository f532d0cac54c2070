//! The events that this crate records: their fields, names and severities.
//!
//! An event is an entry of the trail ([`vram_trail::Entry`]), which numbers and keeps it. Events
//! are private to the crate: code outside cannot claim that something was verified.
//!
//! Values are shared (`Arc<str>`), and rare or large ones are boxed. So making and moving an
//! ordinary event allocates nothing.

use std::sync::Arc;

use serde::Serialize;
use vram_digest::Digest;
use vram_trail::{Severity, Text};

use crate::id::{ModelRef, ShardId};

pub use self::fields::Reason;
pub(crate) use self::fields::{
    AnyDigest, Closing, Failure, History, LiveShard, Opening, Sealing, Subject, Violation,
};

mod fields;

/// The most damaged ranges that a record lists. The number of damaged windows is always exact.
pub(crate) const MAX_LISTED_RANGES: usize = 256;

/// The most live shards that `TrailClosed` lists by name. Their number is always exact.
pub(crate) const MAX_LISTED_SHARDS: usize = 128;

/// An event in the form of the trail. Code outside this crate cannot make one.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Entry(Event);

/// The content of a record.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    DeviceFailed {
        #[serde(flatten)]
        subject: Subject,
        operation: &'static str,
        cause: Text,
    },
    /// A manager was built for a device whose identity and residency must be on record.
    DeviceOpened {
        device: Arc<str>,
        identity: Text,
        /// What was proven about where its memory lies, and what could not be.
        proven: Text,
        unproven: Text,
    },
    PolicyViolation {
        #[serde(flatten)]
        violation: Box<Violation>,
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

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self(event)
    }
}

impl vram_trail::Entry for Entry {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn severity(&self) -> Severity {
        self.0.severity()
    }

    fn is_failed_verification(&self) -> bool {
        matches!(self.0, Event::SealVerificationFailed { .. })
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::DeviceFailed { .. } => "DeviceFailed",
            Self::DeviceOpened { .. } => "DeviceOpened",
            Self::PolicyViolation { .. } => "PolicyViolation",
            Self::SealVerificationFailed { .. } => "SealVerificationFailed",
            Self::SealVerified { .. } => "SealVerified",
            Self::VerificationInconclusive { .. } => "VerificationInconclusive",
            Self::VerificationOverdue { .. } => "VerificationOverdue",
            Self::VramAllocated { .. } => "VramAllocated",
            Self::VramAllocationFailed { .. } => "VramAllocationFailed",
            Self::VramDeallocated { .. } => "VramDeallocated",
            Self::VramSealed { .. } => "VramSealed",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Self::PolicyViolation { .. }
            | Self::SealVerificationFailed { .. }
            | Self::VerificationOverdue { .. } => Severity::Critical,
            Self::DeviceFailed { .. }
            | Self::VerificationInconclusive { .. }
            | Self::VramAllocationFailed { .. } => Severity::Warn,
            Self::VramDeallocated { wiped, freed, .. } if !(*wiped && *freed) => Severity::Warn,
            Self::DeviceOpened { .. }
            | Self::SealVerified { .. }
            | Self::VramAllocated { .. }
            | Self::VramDeallocated { .. }
            | Self::VramSealed { .. } => Severity::Info,
        }
    }
}

#[cfg(test)]
mod tests;
