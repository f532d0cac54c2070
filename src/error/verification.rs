//! What can go wrong with the bytes, or with finding out about them.

use std::ops::Range;
use std::time::Duration;

use vram_digest::Stopped;
use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use crate::device::backend::DigestFailure;
use crate::device::{Culpability, Device, DeviceError};
use crate::shard::{Allocated, Quarantined, Sealed, Shard, Shared};
use crate::verification::Incident;

/// Why a verification has no answer. It says nothing about the bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The device could not answer.
    #[error(transparent)]
    #[non_exhaustive]
    Device {
        /// What it reported.
        source: DeviceError,
    },
    /// The progress callback stopped it.
    #[error(transparent)]
    #[non_exhaustive]
    Stopped {
        /// That it did.
        source: Stopped,
    },
    /// A check took longer than it may. What it found at last changes nothing.
    #[error(
        "the check took longer than its deadline of {limit:?}: see what delays its callback or its device, or set a longer deadline"
    )]
    #[non_exhaustive]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
}

/// A shard that failed its verification, and its incident. They stay together: an incident speaks of one
/// shard.
#[derive(Debug)]
pub struct Broken<D: Device> {
    incident: Box<Incident>,
    shard: Box<Shard<Quarantined, D>>,
}

/// A shard was not sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError<D: Device> {
    /// The device does not hold what the stream or the provenance says, or failed.
    #[error("{}; the shard is quarantined: release it, and load from a source that is right", .0.incident)]
    Broken(Broken<D>),
    /// The call was made in a forked child.
    #[error("sealing is refused: the shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
        /// Why.
        source: Forked,
    },
    /// Some bytes were never written.
    #[error("bytes {} to {} were never written: write every byte before sealing", missing.start, missing.end)]
    #[non_exhaustive]
    Incomplete {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
        /// The first bytes that are missing.
        missing: Range<u64>,
    },
    /// There is no answer.
    #[error("sealing came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
        /// Why.
        source: NoAnswer,
    },
    /// A plain SHA-256 was given, and none was computed over a stream.
    #[error(
        "there is no SHA-256 of a stream to compare with: load with `Stream::WithSha256`, and do not write afterwards, or give the fs-verity digest"
    )]
    #[non_exhaustive]
    NoStreamDigest {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
    },
    /// The manager demands a provenance, and none was given. On record as `PolicyViolation`.
    #[error("this manager refuses `UnpinnedFirstUse`: give the digest that the weights must have")]
    #[non_exhaustive]
    Unpinned {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
        /// The proof that the violation is on record, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The record was not durable in time, and the manager's assurance demands that.
    #[error(
        "the sealing could not be put on record, which `Assurance::Durable` demands: seal again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// The shard as it was.
        shard: Box<Shard<Allocated, D>>,
        /// Why.
        source: NotDurable,
    },
}

/// A shard was not verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError<D: Device> {
    /// The shard is not what was sealed, or its device failed.
    #[error("{}; the shard is quarantined: stop using what was computed from it, release it, and load it again", .0.incident)]
    Broken(Broken<D>),
    /// The call was made in a forked child.
    #[error("verifying is refused: the shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shard.
        shard: Box<Shard<Sealed, D>>,
        /// Why.
        source: Forked,
    },
    /// There is no answer.
    #[error("verifying came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// The shard.
        shard: Box<Shard<Sealed, D>>,
        /// Why.
        source: NoAnswer,
    },
    /// There are no such windows.
    #[error("windows {}..{} are not all among the shard's {count}, or none at all", windows.start, windows.end)]
    #[non_exhaustive]
    NoSuchWindow {
        /// The shard.
        shard: Box<Shard<Sealed, D>>,
        /// The windows asked for.
        windows: Range<u64>,
        /// How many there are.
        count: u64,
    },
    /// The shard is what was sealed, but the record of it was not durable in time, and the manager's
    /// assurance demands that.
    #[error(
        "the verification could not be put on record, which `Assurance::Durable` demands: verify again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// The shard.
        shard: Box<Shard<Sealed, D>>,
        /// Why.
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

/// A check of a shared shard did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// An earlier check failed; nothing can make up for that. Like [`Revoked::Failed`], an answer and no
    /// evidence, which anybody may build: what failed is in the [`Broken`](Self::Broken) of that check.
    #[error(
        "an earlier check of this shard failed, or took longer than its deadline: stop serving it, and load the weights into a new shard"
    )]
    AlreadyFailed,
    /// The shard is not what was sealed, its device failed, or the check took longer than it may and nothing else
    /// would end leases. They are refused from now on.
    #[error(
        "{incident}; no lease is current any more: stop using what was computed from it, drop the leases, and load it again"
    )]
    #[non_exhaustive]
    Broken {
        /// What was found, and its record.
        incident: Box<Incident>,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// There is no answer. Leases stay as they were.
    #[error("the check came to no answer: try again")]
    #[non_exhaustive]
    Inconclusive {
        /// Why.
        source: NoAnswer,
    },
    /// There are no such windows.
    #[error("windows {}..{} are not all among the shard's {count}, or none at all", windows.start, windows.end)]
    #[non_exhaustive]
    NoSuchWindow {
        /// The windows asked for.
        windows: Range<u64>,
        /// How many there are.
        count: u64,
    },
    /// The shard is what was sealed, but the record of it was not durable in time, and the manager's
    /// assurance demands that. The check does not count.
    #[error(
        "the check could not be put on record, which `Assurance::Durable` demands: check again once the trail can write"
    )]
    #[non_exhaustive]
    Unrecorded {
        /// Why.
        source: NotDurable,
    },
}

/// A lease was refused. An answer and no evidence, which anybody may build and compare; what failed
/// is in the [`CheckError`] of the check, and on record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Revoked {
    /// A check failed, or was left without an outcome.
    #[error(
        "a check of this shard failed, or took longer than its deadline: stop serving it, and load the weights into a new shard"
    )]
    Failed,
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The last check that passed is older than the manager's maximum age.
    #[error("the last check of this shard is too old: call `check`")]
    Overdue,
}

/// A shared shard was not reclaimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimError<D: Device> {
    /// A check failed while it was shared. The incident is on record.
    #[error("a check of the shard failed while it was shared: release it, and load it again")]
    #[non_exhaustive]
    Failed {
        /// The shard, which can be released.
        shard: Box<Shard<Quarantined, D>>,
    },
    /// The call was made in a forked child.
    #[error("reclaiming is refused: the shared shard comes back as it was")]
    #[non_exhaustive]
    Forked {
        /// The shard as it was.
        shared: Box<Shared<D>>,
        /// Why.
        source: Forked,
    },
    /// Leases live.
    #[error("leases of the shard live: drop them first")]
    #[non_exhaustive]
    Leased {
        /// The shard as it was.
        shared: Box<Shared<D>>,
    },
}

impl<D: Device> Broken<D> {
    pub(crate) fn new(incident: Box<Incident>, shard: Box<Shard<Quarantined, D>>) -> Self {
        Self { incident, shard }
    }

    /// What was found, and its record.
    pub fn incident(&self) -> &Incident {
        &self.incident
    }

    /// The shard, which can be released.
    pub fn shard(&self) -> &Shard<Quarantined, D> {
        &self.shard
    }

    /// What was found, and the shard.
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

    /// There is none where one was due.
    pub(crate) fn missing() -> Self {
        Self::of_device(DeviceError::Busy {
            operation: "digest",
            cause: "the device did not answer".into(),
        })
    }

    /// Whether it is an answer after all, and a bad one.
    pub(crate) fn is_broken(&self) -> bool {
        match self {
            Self::Device { source } => source.culpability() == Culpability::Broken,
            Self::Stopped { .. } | Self::TimedOut { .. } => false,
        }
    }
}

impl<D: Device> SealError<D> {
    /// The shard: as it was, or quarantined.
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

    /// The incident, if the shard failed.
    pub fn incident(&self) -> Option<&Incident> {
        let Self::Broken(broken) = self else {
            return None;
        };
        Some(&broken.incident)
    }
}

impl<D: Device> VerifyError<D> {
    /// The shard: sealed, or quarantined.
    pub fn into_shard(self) -> Result<Shard<Sealed, D>, Box<Shard<Quarantined, D>>> {
        match self {
            Self::Broken(broken) => Err(broken.shard),
            Self::Forked { shard, .. }
            | Self::Inconclusive { shard, .. }
            | Self::NoSuchWindow { shard, .. }
            | Self::Unrecorded { shard, .. } => Ok(*shard),
        }
    }

    /// The incident, if the shard failed.
    pub fn incident(&self) -> Option<&Incident> {
        let Self::Broken(broken) = self else {
            return None;
        };
        Some(&broken.incident)
    }
}

impl<D: Device> ReclaimError<D> {
    /// The shard: still shared, or quarantined.
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
