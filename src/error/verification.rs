//! Errors of sealing, verifying, checking, leasing and reclaiming.
//!
//! Every error separates an answer about the bytes from the absence of an answer.

use std::ops::Range;
use std::time::Duration;

use vram_digest::Stopped;
use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use crate::device::backend::DigestFailure;
use crate::device::{Culpability, Device, DeviceError};
use crate::shard::{Allocated, Quarantined, Sealed, Shard, Shared};
use crate::verification::Incident;

/// The reason why a verification is inconclusive. It says nothing about the bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The device could not answer.
    #[error(transparent)]
    #[non_exhaustive]
    Device {
        /// The error of the device.
        source: DeviceError,
    },
    /// The progress callback stopped it.
    #[error(transparent)]
    #[non_exhaustive]
    Stopped {
        /// The stop by the callback.
        source: Stopped,
    },
    /// A check took longer than its deadline. Its late result changes nothing.
    #[error(
        "the check took longer than its deadline of {limit:?}: see what delays its callback or its device, or set a longer deadline"
    )]
    #[non_exhaustive]
    TimedOut {
        /// The deadline.
        limit: Duration,
    },
}

/// A shard that failed its verification, and its incident.
///
/// The two stay together, because an incident is about one shard.
#[derive(Debug)]
pub struct Broken<D: Device> {
    incident: Box<Incident>,
    shard: Box<Shard<Quarantined, D>>,
}

/// Error returned when a shard was not sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError<D: Device> {
    /// The device's bytes do not match the stream or the provenance, or the device failed.
    #[error("{}; the shard is quarantined: release it, and load from a source that is right", .0.incident)]
    Broken(Broken<D>),
    /// The call was made in a forked child.
    #[error("sealing is refused: the shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
        /// The cause.
        source: Forked,
    },
    /// Some bytes were never written.
    #[error("bytes {} to {} were never written: write every byte before sealing", missing.start, missing.end)]
    #[non_exhaustive]
    Incomplete {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
        /// The first range of missing bytes.
        missing: Range<u64>,
    },
    /// The verification was inconclusive.
    #[error("sealing came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
        /// The cause.
        source: NoAnswer,
    },
    /// The provenance is a plain SHA-256, but none was computed over a stream.
    #[error(
        "there is no SHA-256 of a stream to compare with: load with `Stream::WithSha256`, and do not write afterwards, or give the fs-verity digest"
    )]
    #[non_exhaustive]
    NoStreamDigest {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
    },
    /// The manager requires a provenance, and none was given. Recorded as `PolicyViolation`.
    #[error("this manager refuses `UnpinnedFirstUse`: give the digest that the weights must have")]
    #[non_exhaustive]
    Unpinned {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
        /// The receipt of the recorded violation, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The record did not become durable in time, and the manager's assurance requires that.
    #[error(
        "the sealing could not be put on record, which `Assurance::Durable` demands: seal again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// The shard, unchanged.
        shard: Box<Shard<Allocated, D>>,
        /// The cause.
        source: NotDurable,
    },
}

/// Error returned when a shard was not verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError<D: Device> {
    /// The shard does not match its seal, or its device failed.
    #[error("{}; the shard is quarantined: stop using what was computed from it, release it, and load it again", .0.incident)]
    Broken(Broken<D>),
    /// The call was made in a forked child.
    #[error("verifying is refused: the shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shard, sealed.
        shard: Box<Shard<Sealed, D>>,
        /// The cause.
        source: Forked,
    },
    /// The verification was inconclusive.
    #[error("verifying came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// The shard, sealed.
        shard: Box<Shard<Sealed, D>>,
        /// The cause.
        source: NoAnswer,
    },
    /// The range of windows is empty or out of bounds.
    #[error("windows {}..{} are not all among the shard's {count}, or none at all", windows.start, windows.end)]
    #[non_exhaustive]
    NoSuchWindow {
        /// The shard, sealed.
        shard: Box<Shard<Sealed, D>>,
        /// The requested windows.
        windows: Range<u64>,
        /// The number of windows of the shard.
        count: u64,
    },
    /// The shard matches its seal, but the record did not become durable in time, and the manager's
    /// assurance requires that.
    #[error(
        "the verification could not be put on record, which `Assurance::Durable` demands: verify again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// The shard, sealed.
        shard: Box<Shard<Sealed, D>>,
        /// The cause.
        source: NotDurable,
    },
}

/// Why a shard was not verified. It says nothing about the bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotVerified {
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(Forked),
    /// There is no answer.
    #[error("verifying came to no answer: try again")]
    Inconclusive(#[source] NoAnswer),
    /// There are no such windows.
    #[error("windows {}..{} are not all among the shard's {count}, or none at all", windows.start, windows.end)]
    #[non_exhaustive]
    NoSuchWindow {
        /// The windows asked for.
        windows: Range<u64>,
        /// How many there are.
        count: u64,
    },
    /// The record was not durable in time, and the manager's assurance demands that.
    #[error(
        "the verification could not be put on record, which `Assurance::Durable` demands: verify again once the trail can write"
    )]
    Unrecorded(#[source] NotDurable),
}

/// Error returned when a check of a shared shard did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// An earlier check failed, and no later check can make up for it.
    ///
    /// Like [`Revoked::Failed`], this is an answer and not evidence: any code can build it. The
    /// [`Broken`](Self::Broken) of the earlier check has the incident.
    #[error(
        "an earlier check of this shard failed, or took longer than its deadline: stop serving it, and load the weights into a new shard"
    )]
    AlreadyFailed,
    /// The shard does not match its seal, its device failed, or the check missed its deadline and
    /// nothing else would end the leases. No lease is current any more, and new leases are refused.
    #[error(
        "{incident}; no lease is current any more: stop using what was computed from it, drop the leases, and load it again"
    )]
    #[non_exhaustive]
    Broken {
        /// The incident and its record.
        incident: Box<Incident>,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The check was inconclusive. Leases stay as they were.
    #[error("the check came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// The cause.
        source: NoAnswer,
    },
    /// The range of windows is empty or out of bounds.
    #[error("windows {}..{} are not all among the shard's {count}, or none at all", windows.start, windows.end)]
    #[non_exhaustive]
    NoSuchWindow {
        /// The requested windows.
        windows: Range<u64>,
        /// The number of windows of the shard.
        count: u64,
    },
    /// The shard matches its seal, but the record did not become durable in time, and the manager's
    /// assurance requires that. The check does not count.
    #[error(
        "the check could not be put on record, which `Assurance::Durable` demands: check again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// The cause.
        source: NotDurable,
    },
}

/// Error returned when a lease was refused.
///
/// This is an answer and not evidence: any code can build and compare it. The [`CheckError`] of the
/// failed check and the trail have the incident.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Revoked {
    /// A check failed, or ended without an outcome.
    #[error(
        "a check of this shard failed, or took longer than its deadline: stop serving it, and load the weights into a new shard"
    )]
    Failed,
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The last passed check is older than the manager's maximum age.
    #[error("the last check of this shard is too old: call `check`")]
    Overdue,
}

/// Error returned when a shared shard was not reclaimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimError<D: Device> {
    /// A check failed while the shard was shared. The incident is recorded.
    #[error("a check of the shard failed while it was shared: release it, and load it again")]
    #[non_exhaustive]
    Failed {
        /// The shard, which can only be released.
        shard: Box<Shard<Quarantined, D>>,
    },
    /// The call was made in a forked child.
    #[error("reclaiming is refused: the shared shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shared shard, unchanged.
        shared: Box<Shared<D>>,
        /// The cause.
        source: Forked,
    },
    /// The shard still has leases.
    #[error("leases of the shard live: drop them first")]
    #[non_exhaustive]
    Leased {
        /// The shared shard, unchanged.
        shared: Box<Shared<D>>,
    },
}

impl<D: Device> Broken<D> {
    pub(crate) fn new(incident: Box<Incident>, shard: Box<Shard<Quarantined, D>>) -> Self {
        Self { incident, shard }
    }

    /// Returns the incident and its record.
    pub fn incident(&self) -> &Incident {
        &self.incident
    }

    /// Returns the shard, which can only be released.
    pub fn shard(&self) -> &Shard<Quarantined, D> {
        &self.shard
    }

    /// Returns the incident and the shard.
    pub fn into_parts(self) -> (Box<Incident>, Box<Shard<Quarantined, D>>) {
        (self.incident, self.shard)
    }
}

impl NoAnswer {
    pub(crate) fn of_device(source: DeviceError) -> Self {
        Self::Device { source }
    }

    pub(crate) fn stopped() -> Self {
        Self::Stopped {
            source: Stopped::by_callback(),
        }
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::TimedOut { limit }
    }

    /// The answer when the device returned none.
    pub(crate) fn missing() -> Self {
        Self::of_device(DeviceError::Busy {
            operation: "digest",
            cause: "the device did not answer".into(),
        })
    }

    /// Returns whether the device failed in a way that condemns the bytes.
    pub(crate) fn is_broken(&self) -> bool {
        match self {
            Self::Device { source } => source.culpability() == Culpability::Broken,
            Self::Stopped { .. } | Self::TimedOut { .. } => false,
        }
    }
}

impl<D: Device> SealError<D> {
    /// Returns the shard.
    ///
    /// # Errors
    ///
    /// Returns the quarantined shard if it failed; otherwise the shard is unchanged.
    pub fn into_shard(self) -> Result<Shard<Allocated, D>, Box<Shard<Quarantined, D>>> {
        match self {
            Self::Broken(broken) => Err(broken.shard),
            Self::Forked { shard, .. }
            | Self::Incomplete { shard, .. }
            | Self::Inconclusive { shard, .. }
            | Self::NoStreamDigest { shard }
            | Self::Unpinned { shard, .. }
            | Self::Unrecorded { shard, .. } => Ok(*shard),
        }
    }

    /// Returns the incident, if the shard failed.
    pub fn incident(&self) -> Option<&Incident> {
        let Self::Broken(broken) = self else {
            return None;
        };
        Some(&broken.incident)
    }
}

impl<D: Device> VerifyError<D> {
    /// Returns the shard, which is sealed and not verified.
    ///
    /// # Errors
    ///
    /// Returns the quarantined shard if it failed.
    pub fn into_shard(self) -> Result<Shard<Sealed, D>, Box<Shard<Quarantined, D>>> {
        match self {
            Self::Broken(broken) => Err(broken.shard),
            Self::Forked { shard, .. }
            | Self::Inconclusive { shard, .. }
            | Self::NoSuchWindow { shard, .. }
            | Self::Unrecorded { shard, .. } => Ok(*shard),
        }
    }

    /// Returns the incident, if the shard failed.
    pub fn incident(&self) -> Option<&Incident> {
        let Self::Broken(broken) = self else {
            return None;
        };
        Some(&broken.incident)
    }
}

impl<D: Device> ReclaimError<D> {
    /// Returns the shard, which is still shared.
    ///
    /// # Errors
    ///
    /// Returns the quarantined shard if a check of it failed.
    pub fn into_shared(self) -> Result<Shared<D>, Box<Shard<Quarantined, D>>> {
        match self {
            Self::Failed { shard } => Err(shard),
            Self::Forked { shared, .. } | Self::Leased { shared } => Ok(*shared),
        }
    }
}

impl From<DigestFailure> for NoAnswer {
    fn from(failure: DigestFailure) -> Self {
        match failure {
            DigestFailure::Device(error) => Self::of_device(error),
            DigestFailure::Stopped => Self::stopped(),
        }
    }
}
