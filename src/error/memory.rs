//! Errors of getting, filling and releasing memory.

use std::io;
use std::sync::Arc;

use vram_digest::Stopped;
use vram_trail::process::Forked;
use vram_trail::{NotDurable, Receipt};

use crate::device::{Bound, DeviceError};
use crate::id::ShardId;

/// Error returned when a manager was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The device's memory cannot be shown to be its own: it may be host memory, which others read.
    #[error("no manager for this device: {cause}")]
    #[non_exhaustive]
    NotResident {
        /// The cause.
        cause: Arc<str>,
        /// The receipt of the recorded refusal, or the reason why there was none yet: see
        /// [`NotDurable::ask_again`].
        record: Result<Receipt, NotDurable>,
    },
    /// The system's random generator failed. The manager needs it for its epoch.
    #[error("the system's random generator failed")]
    Random(#[source] io::Error),
}

/// Error returned when memory was not allocated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The device failed.
    #[error("the device did not allocate")]
    Device(#[source] DeviceError),
    /// A live shard has the same name.
    #[error("a shard named {id} lives: release it first, or choose another name")]
    #[non_exhaustive]
    DuplicateId {
        /// The name.
        id: ShardId,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// There is not enough free memory.
    #[error(
        "{needed} bytes are needed, {available} are left by {bound}: release a shard, or use smaller ones"
    )]
    #[non_exhaustive]
    NoRoom {
        /// Requested bytes.
        needed: u64,
        /// Bytes that can be allocated: the minimum of the rest of the manager's limit, the free
        /// memory of Linux, and the rest of the cgroup. Memory that loading needs beside a shard is
        /// subtracted: see [`Capacity::available`](crate::manager::Capacity).
        available: u64,
        /// The limit that is the minimum.
        bound: Bound,
    },
    /// The request exceeds the limit of one shard.
    #[error(
        "{requested} bytes are more than the {limit} that one shard may have ({available} can be had): split it, or build the manager with a higher `shard_limit`"
    )]
    #[non_exhaustive]
    TooLarge {
        /// Requested bytes.
        requested: u64,
        /// The limit of one shard, in bytes.
        limit: u64,
        /// Bytes that shards within that limit can still get.
        available: u64,
    },
    /// The record of the allocation did not become durable in time, and the manager's assurance
    /// requires that. The memory was freed again.
    #[error("the allocation could not be put on record, which `Assurance::Durable` demands")]
    Unrecorded(#[source] NotDurable),
    /// The request was for 0 bytes.
    #[error("a shard has at least one byte")]
    ZeroLength,
}

/// Error returned when bytes were not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The device failed. Earlier writes do not count as written either.
    #[error(
        "the device did not take the bytes: write the shard again from the start, or release it"
    )]
    Device(#[source] DeviceError),
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The bytes do not fit into the shard. Nothing was written.
    #[error("{len} bytes at offset {offset} do not fit into a shard of {shard_len}")]
    #[non_exhaustive]
    OutOfBounds {
        /// The offset of the write, in bytes.
        offset: u64,
        /// The length of the write, in bytes.
        len: u64,
        /// The length of the shard, in bytes.
        shard_len: u64,
    },
}

/// Error returned when a stream was not loaded.
///
/// Nothing counts as written: load again, or release the shard.
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
    /// The progress callback stopped the load.
    #[error(transparent)]
    Stopped(Stopped),
    /// The reader has more bytes than the shard.
    #[error("the source has more than the shard's {expected} bytes: allocate exactly its length")]
    #[non_exhaustive]
    TooLong {
        /// Length of the shard, in bytes.
        expected: u64,
    },
    /// The reader ended before the shard was full.
    #[error(
        "the source ended after {got} of {expected} bytes: it is truncated, or the shard is too long"
    )]
    #[non_exhaustive]
    TooShort {
        /// Length of the shard, in bytes.
        expected: u64,
        /// Bytes read.
        got: u64,
    },
}

/// Error returned when memory was not released cleanly. The failure is recorded, and the shard is
/// gone.
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
        /// The cause.
        source: DeviceError,
    },
    /// The memory was freed, but may still hold its content.
    #[error(
        "the memory was freed without having been wiped: whoever gets it next may read the weights"
    )]
    #[non_exhaustive]
    NotWiped {
        /// The cause.
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
