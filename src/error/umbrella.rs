//! One error that every public error of this crate converts into, for callers who use `?` and match on nothing.

use std::io;

use vram_digest::{DigestError, Stopped};
use vram_trail::process::Forked;
use vram_trail::{
    AnchorError, CloseError, NotDurable, NoteError, OpenError, ProofError, ProveError, RecordError,
};

use super::{
    AllocateAllError, AllocateError, Broken, BuildError, CheckError, LoadError, NoAnswer,
    NotSealed, NotVerified, ReclaimError, ReleaseError, Revoked, SealAllError, SealError,
    VerifyError, WriteError,
};
#[cfg(feature = "cuda")]
use crate::device::CudaError;
use crate::device::{Device, DeviceError};
use crate::id::{IdError, ShardId};
use crate::key::{KeyError, SignError};
use crate::verification::Incident;

/// Any error of this crate. Every other public error, and [`io::Error`], converts into it, so that `?` works
/// with one type.
///
/// It holds no shard. An error that gives a shard back ([`SealError`], [`VerifyError`], [`SealAllError`],
/// [`ReclaimError`]) loses it in the conversion: the shard is dropped, which wipes and frees its memory and puts
/// `VramDeallocated` on record. So a long-lived error pins no memory. To try again with the same shard, match on
/// the error of the call before it is converted. Incidents are kept: see [`incidents`](Self::incidents).
///
/// ```
/// use vram_residency::{Digest, ShardId};
///
/// fn parse(name: &str, digest: &str) -> Result<(ShardId, Digest), vram_residency::Error> {
///     Ok((name.parse()?, digest.parse()?))
/// }
///
/// assert!(parse("layer-0", "d82c").is_err());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shards were not allocated together.
    #[error(transparent)]
    AllocateAll(#[from] AllocateAllError),
    /// A shard was not allocated.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// An anchor failed.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// Shards failed while they were sealed or verified, and were dropped. The trail has the outcome of
    /// wiping and freeing their memory.
    #[error("{}", describe(incidents))]
    #[non_exhaustive]
    Broken {
        /// What was found, one for each shard that failed, and its record. At least one.
        incidents: Vec<Incident>,
    },
    /// A manager was not built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A check of a shared shard did not pass.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A trail was not closed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// A GPU was not opened.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A text is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// A text is no name.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A key was not created or opened.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A shared shard was not reclaimed, because leases of it live. The handle was dropped; the last lease frees
    /// the memory.
    #[error("leases of the shard live: drop them before reclaiming it")]
    Leased,
    /// A stream was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A verification has no answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A record is not durable.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
    /// A shard was not sealed, for a reason that says nothing about its bytes. The shard was dropped, and so was
    /// its whole batch.
    #[error("shard {shard} was not sealed")]
    #[non_exhaustive]
    NotSealed {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: NotSealed,
    },
    /// A shard was not verified, for a reason that says nothing about its bytes. The shard was dropped.
    #[error("shard {shard} was not verified")]
    #[non_exhaustive]
    NotVerified {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: NotVerified,
    },
    /// A text is no checkpoint or verifier key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A trail was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A text is no proof.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A trail gave no proof, checkpoint or key.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// A note or a violation was not taken.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Memory was not given back as it should have been.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A lease was refused, or a shard whose check failed was not reclaimed.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// A signer failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A progress callback stopped the work.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Bytes were not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Error {
    /// What was found in shards that failed their verification, and its records. Empty if none failed.
    pub fn incidents(&self) -> &[Incident] {
        match self {
            Self::Broken { incidents } => incidents,
            Self::Check(CheckError::Broken { incident }) => std::slice::from_ref(incident),
            _ => &[],
        }
    }

    fn broken<D: Device>(broken: impl IntoIterator<Item = Broken<D>>) -> Self {
        let incidents = broken.into_iter().map(|broken| *broken.into_parts().0);
        Self::Broken {
            incidents: incidents.collect(),
        }
    }
}

/// Drops the shard, which wipes and frees its memory.
impl<D: Device> From<SealError<D>> for Error {
    fn from(error: SealError<D>) -> Self {
        let (shard, source) = match error {
            SealError::Broken(broken) => return Self::broken([broken]),
            SealError::Forked { shard, source } => (shard, NotSealed::Forked(source)),
            SealError::Incomplete { shard, missing } => (shard, NotSealed::Incomplete { missing }),
            SealError::Inconclusive { shard, source } => (shard, NotSealed::Inconclusive(source)),
            SealError::NoStreamDigest { shard } => (shard, NotSealed::NoStreamDigest),
            SealError::Unpinned { shard, record } => (shard, NotSealed::Unpinned { record }),
            SealError::Unrecorded { shard, source } => (shard, NotSealed::Unrecorded(source)),
        };
        Self::NotSealed {
            shard: shard.id().clone(),
            source,
        }
    }
}

/// Drops all shards, sealed ones and others, which wipes and frees their memory.
impl<D: Device> From<SealAllError<D>> for Error {
    fn from(error: SealAllError<D>) -> Self {
        match error {
            SealAllError::Broken { broken, .. } => Self::broken(broken),
            SealAllError::NotSealed { shard, source, .. } => Self::NotSealed { shard, source },
        }
    }
}

/// Drops the shard, which wipes and frees its memory.
impl<D: Device> From<VerifyError<D>> for Error {
    fn from(error: VerifyError<D>) -> Self {
        let (shard, source) = match error {
            VerifyError::Broken(broken) => return Self::broken([broken]),
            VerifyError::Forked { shard, source } => (shard, NotVerified::Forked(source)),
            VerifyError::Inconclusive { shard, source } => {
                (shard, NotVerified::Inconclusive(source))
            }
            VerifyError::NoSuchWindow {
                shard,
                windows,
                count,
            } => (shard, NotVerified::NoSuchWindow { windows, count }),
            VerifyError::Unrecorded { shard, source } => (shard, NotVerified::Unrecorded(source)),
        };
        Self::NotVerified {
            shard: shard.id().clone(),
            source,
        }
    }
}

/// Drops the shard, or the handle of a shared one. The last lease frees the memory.
impl<D: Device> From<ReclaimError<D>> for Error {
    fn from(error: ReclaimError<D>) -> Self {
        match error {
            ReclaimError::Failed { .. } => Self::Revoked(Revoked::Failed),
            ReclaimError::Forked { source, .. } => Self::Forked(source),
            ReclaimError::Leased { .. } => Self::Leased,
        }
    }
}

fn describe(incidents: &[Incident]) -> String {
    let shown: Vec<String> = incidents.iter().map(Incident::to_string).collect();
    format!(
        "{}; the shard was dropped: load from a source that is right",
        shown.join("; ")
    )
}
