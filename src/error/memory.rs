//! What can go wrong with memory: getting it, filling it, giving it back.

use std::io;
use std::sync::Arc;

use vram_digest::Stopped;
use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use crate::device::{Bound, DeviceError};
use crate::id::ShardId;

/// A manager was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// Nobody can say that the device's memory is its own: it may be the host's, which others read.
    #[error("no manager for this device: {cause}")]
    #[non_exhaustive]
    NotResident {
        /// Why.
        cause: Arc<str>,
        /// The proof that the refusal is on record, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The system's random generator, which gives a manager its epoch, failed.
    #[error("the system's random generator failed")]
    Random(#[source] io::Error),
}

/// Memory was not allocated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The device failed.
    #[error("the device did not allocate")]
    Device(#[source] DeviceError),
    /// A shard with this name lives.
    #[error("a shard named {id} lives: release it first, or choose another name")]
    #[non_exhaustive]
    DuplicateId {
        /// The name.
        id: ShardId,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// There is not enough memory.
    #[error(
        "{needed} bytes are needed, {available} are left by {bound}: release a shard, or use smaller ones"
    )]
    #[non_exhaustive]
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes that can be had: the least of what the manager's limit leaves, what Linux has and
        /// what the cgroup leaves, without what loading takes beside a shard (see
        /// [`Capacity::available`](crate::manager::Capacity)).
        available: u64,
        /// Which of them that is.
        bound: Bound,
    },
    /// More than one shard may have.
    #[error(
        "{requested} bytes are more than the {limit} that one shard may have ({available} can be had): split it, or build the manager with a higher `shard_limit`"
    )]
    #[non_exhaustive]
    TooLarge {
        /// Bytes asked for.
        requested: u64,
        /// Bytes that one shard may have.
        limit: u64,
        /// Bytes that can be had by shards within that limit.
        available: u64,
    },
    /// The record of the allocation was not durable in time, and the manager's assurance demands that. The
    /// memory was freed again.
    #[error("the allocation could not be put on record, which `Assurance::Durable` demands")]
    Unrecorded(#[source] NotDurable),
    /// A shard without bytes was asked for.
    #[error("a shard has at least one byte")]
    ZeroLength,
}

/// Bytes were not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The device failed. Nothing written so far counts as written.
    #[error(
        "the device did not take the bytes: write the shard again from the start, or release it"
    )]
    Device(#[source] DeviceError),
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The bytes do not fit. Nothing was written.
    #[error("{len} bytes at offset {offset} do not fit into a shard of {shard_len}")]
    #[non_exhaustive]
    OutOfBounds {
        /// Where they were to go, in bytes.
        offset: u64,
        /// How many they are.
        len: u64,
        /// How many the shard has.
        shard_len: u64,
    },
}

/// A stream was not loaded. Nothing counts as written: load again, or release the shard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The device failed.
    #[error("the device did not take the bytes: load again, or release the shard")]
    Device(#[source] DeviceError),
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The reader failed.
    #[error("the source could not be read to its end: load again")]
    Reader(#[source] io::Error),
    /// The progress callback stopped it.
    #[error(transparent)]
    Stopped(Stopped),
    /// The reader has more bytes than the shard.
    #[error("the source has more than the shard's {expected} bytes: allocate exactly its length")]
    #[non_exhaustive]
    TooLong {
        /// Bytes of the shard.
        expected: u64,
    },
    /// The reader ended before the shard was full.
    #[error(
        "the source ended after {got} of {expected} bytes: it is truncated, or the shard is too long"
    )]
    #[non_exhaustive]
    TooShort {
        /// Bytes of the shard.
        expected: u64,
        /// Bytes read.
        got: u64,
    },
}

/// Memory was not given back as it should have been. It is on record, and the shard is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The call was made in a forked child. Nothing was touched.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The device did not free the memory; it stays accounted for.
    #[error("the device did not free the memory: restart the worker if it is needed")]
    #[non_exhaustive]
    NotFreed {
        /// Why.
        source: DeviceError,
    },
    /// The memory was freed, and may still hold what was in it.
    #[error(
        "the memory was freed without having been wiped: whoever gets it next may read the weights"
    )]
    #[non_exhaustive]
    NotWiped {
        /// Why.
        source: DeviceError,
    },
}

impl From<DeviceError> for AllocateError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::OutOfMemory {
                needed,
                available,
                bound,
            } => Self::NoRoom {
                needed,
                available,
                bound,
            },
            other => Self::Device(other),
        }
    }
}
