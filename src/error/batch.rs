//! What can go wrong with shards that are allocated and sealed together.

use std::ops::Range;

use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use super::{AllocateError, Broken, NoAnswer, SealError};
use crate::device::Device;
use crate::id::ShardId;
use crate::shard::{Allocated, Batch, Sealed, Shard};

/// None of the shards of a batch was allocated.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} was not allocated, and no other of the batch")]
#[non_exhaustive]
pub struct AllocateAllError {
    /// The shard at which it was found.
    pub shard: ShardId,
    /// Why.
    pub source: AllocateError,
}

/// Not all shards of a batch were sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealAllError<D: Device> {
    /// Some do not hold what the stream or the provenance says, or their device failed.
    #[error(
        "{} of the batch's shards failed{}; they are quarantined: release them, and load them from a source that is right",
        broken.len(),
        first(broken)
    )]
    #[non_exhaustive]
    Broken {
        /// Those that failed.
        broken: Vec<Broken<D>>,
        /// All others, unless one of them could not be sealed for another reason.
        sealed: Vec<Shard<Sealed, D>>,
        /// All others then, as they were. Otherwise it is empty.
        batch: Box<Batch<D>>,
    },
    /// None failed, and none is sealed: one could not be, and that said nothing about its bytes.
    #[error("shard {shard} could not be sealed, and no other of the batch")]
    #[non_exhaustive]
    NotSealed {
        /// All shards, as they were.
        batch: Box<Batch<D>>,
        /// The shard that could not be sealed.
        shard: ShardId,
        /// Why.
        source: NotSealed,
    },
}

/// Why a shard could not be sealed. It says nothing about the bytes.
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
        /// The first bytes that are missing.
        missing: Range<u64>,
    },
    /// There is no answer.
    #[error("sealing came to no answer: try again")]
    Inconclusive(#[source] NoAnswer),
    /// A plain SHA-256 was given, and none was computed over a stream.
    #[error(
        "there is no SHA-256 of a stream to compare with: load with `Stream::WithSha256`, and do not write afterwards, or give the fs-verity digest"
    )]
    NoStreamDigest,
    /// The manager demands a provenance, and none was given. On record as `PolicyViolation`.
    #[error("this manager refuses `UnpinnedFirstUse`: give the digest that the weights must have")]
    #[non_exhaustive]
    Unpinned {
        /// The proof that the violation is on record, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The record was not durable in time, and the manager's assurance demands that.
    #[error(
        "the sealing could not be put on record, which `Assurance::Durable` demands: seal again once the trail can write"
    )]
    Unrecorded(#[source] NotDurable),
}

impl NotSealed {
    /// The error of a shard that was to be sealed by itself.
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

/// The first of those that failed, in words.
fn first<D: Device>(broken: &[Broken<D>]) -> String {
    broken.first().map_or_else(String::new, |first| {
        format!(", the first: {}", first.incident())
    })
}
