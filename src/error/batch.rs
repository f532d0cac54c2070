//! Errors of allocating and sealing many shards together.

use std::ops::Range;

use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use super::{AllocateError, Broken, NoAnswer, SealError};
use crate::device::Device;
use crate::id::ShardId;
use crate::shard::{Allocated, Batch, Sealed, Shard};

/// Error returned when a batch was not allocated. None of its shards was.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} was not allocated, and no other of the batch")]
#[non_exhaustive]
pub struct AllocateAllError {
    /// The shard that caused the failure.
    pub shard: ShardId,
    /// The cause.
    pub source: AllocateError,
}

/// Error returned when not all shards of a batch were sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealAllError<D: Device> {
    /// Some shards do not match the stream or the provenance, or their device failed.
    #[error(
        "{} of the batch's shards failed{}; they are quarantined: release them, and load them from a source that is right",
        broken.len(),
        first(broken)
    )]
    #[non_exhaustive]
    Broken {
        /// The shards that failed.
        broken: Vec<Broken<D>>,
        /// All other shards, sealed. Empty if one of them could not be sealed for another reason.
        sealed: Vec<Shard<Sealed, D>>,
        /// All other shards, unchanged, if `sealed` is empty for that reason. Otherwise empty.
        batch: Box<Batch<D>>,
    },
    /// No shard failed, and none is sealed: one could not be sealed, for a reason that says nothing
    /// about its bytes.
    #[error("shard {shard} could not be sealed, and no other of the batch")]
    #[non_exhaustive]
    NotSealed {
        /// All shards, unchanged.
        batch: Box<Batch<D>>,
        /// The shard that could not be sealed.
        shard: ShardId,
        /// The cause.
        source: NotSealed,
    },
}

/// The reason why a shard could not be sealed. It says nothing about the bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSealed {
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(Forked),
    /// Some bytes were never written.
    #[error("bytes {} to {} were never written: write every byte before sealing", missing.start, missing.end)]
    #[non_exhaustive]
    Incomplete {
        /// The first range of missing bytes.
        missing: Range<u64>,
    },
    /// The verification was inconclusive.
    #[error("sealing came to no answer: try again")]
    Inconclusive(#[source] NoAnswer),
    /// The provenance is a plain SHA-256, but none was computed over a stream.
    #[error(
        "there is no SHA-256 of a stream to compare with: load with `Stream::WithSha256`, and do not write afterwards, or give the fs-verity digest"
    )]
    NoStreamDigest,
    /// The manager requires a provenance, and none was given. Recorded as `PolicyViolation`.
    #[error("this manager refuses `UnpinnedFirstUse`: give the digest that the weights must have")]
    #[non_exhaustive]
    Unpinned {
        /// The receipt of the recorded violation, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The record did not become durable in time, and the manager's assurance requires that.
    #[error(
        "the sealing could not be put on record, which `Assurance::Durable` demands: seal again once the trail can write"
    )]
    Unrecorded(#[source] NotDurable),
}

impl NotSealed {
    /// Converts into the error of sealing a single shard.
    pub(crate) fn of<D: Device>(self, shard: Shard<Allocated, D>) -> SealError<D> {
        let shard = Box::new(shard);
        match self {
            Self::Forked(source) => SealError::Forked { shard, source },
            Self::Incomplete { missing } => SealError::Incomplete { shard, missing },
            Self::Inconclusive(source) => SealError::Inconclusive { shard, source },
            Self::NoStreamDigest => SealError::NoStreamDigest { shard },
            Self::Unpinned { record } => SealError::Unpinned { shard, record },
            Self::Unrecorded(source) => SealError::Unrecorded { shard, source },
        }
    }
}

impl<D: Device> From<Broken<D>> for SealError<D> {
    fn from(broken: Broken<D>) -> Self {
        Self::Broken(broken)
    }
}

/// Returns the first failure in words.
fn first<D: Device>(broken: &[Broken<D>]) -> String {
    broken.first().map_or_else(String::new, |first| {
        format!(", the first: {}", first.incident())
    })
}
