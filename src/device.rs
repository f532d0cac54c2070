//! Devices, where shards live: the [`Device`] trait, and the answers of a device.
//!
//! A device allocates memory, fills it, protects it, hashes it in place, and wipes it. The trait is
//! public so that a manager's type can name its device. The operations are in a trait of a private
//! module, which code outside can neither implement nor use. This module knows memory and bytes. It
//! does not know what a seal is, nor whether any bytes are good.

use std::fmt;
use std::io;
use std::sync::Arc;

mod available;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "fault-injection")]
mod faults;
mod host;

#[cfg(feature = "cuda")]
pub(crate) use cuda::kernel_sha256;
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaBuilder, CudaError, CudaView, DEFAULT_SPOT_CHECKS, Protection, Share};
/// The crate for using views of shards in a GPU, re-exported in the version that this crate uses.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "fault-injection")]
pub(crate) use faults::Struck;
#[cfg(feature = "fault-injection")]
pub use faults::{Faults, Operation};
pub use host::Host;
pub(crate) use host::try_calls;

/// A place where shards live.
///
/// Implemented by [`Host`], and with the feature `cuda` by `Cuda`. This trait is sealed.
pub trait Device: backend::Backend + fmt::Debug + Send + Sync + 'static {
    /// A read-only view of a shard's bytes, with exactly the shard's length.
    type View<'a>;
}

/// The memory that can be allocated, and the bound that applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Available {
    /// Available bytes.
    pub bytes: u64,
    /// The bound that applies.
    pub bound: Bound,
}

/// A bound on available memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// The maximum size of one allocation on this machine. No other bound is known: neither
    /// `/proc/meminfo` nor a limit of a cgroup can be read.
    AddressSpace,
    /// The memory limit of the process's cgroup, or of a cgroup above it.
    Cgroup,
    /// `memory.high` of the process's cgroup, or of a cgroup above it. A process above it is not
    /// killed, but slowed down almost to a standstill.
    CgroupHigh,
    /// The free memory of the GPU.
    DeviceMemory,
    /// The limit that the manager was built with.
    ManagerLimit,
    /// The memory that Linux can give without swapping: `MemAvailable` in `/proc/meminfo`.
    MemAvailable,
}

impl Available {
    /// Returns the bytes for a record, or `None` if they are unknown.
    pub(crate) fn on_record(self) -> Option<u64> {
        (self.bound != Bound::AddressSpace).then_some(self.bytes)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSpace => "the address space",
            Self::Cgroup => "the memory limit of the cgroup",
            Self::CgroupHigh => "`memory.high` of the cgroup",
            Self::DeviceMemory => "the free memory of the GPU",
            Self::ManagerLimit => "the manager's limit",
            Self::MemAvailable => "the memory that is available",
        })
    }
}

/// The evidence about where a device's allocations lie.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Residency {
    /// The proven facts.
    pub proven: Arc<str>,
    /// The facts that could not be proven.
    pub unproven: Arc<str>,
    /// The reason why allocations cannot be shown to lie in the device's own memory. If there is
    /// one, nothing is allocated.
    pub refused: Option<Arc<str>>,
}

/// The meaning of a device's failure for the bytes that it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Culpability {
    /// The bytes, or the device that holds them, can no longer be trusted. Examples: an
    /// uncorrectable memory error, an illegal address, a lost context.
    Broken,
    /// The failure says nothing about the bytes. The operation can be tried again.
    Inconclusive,
}

/// Error returned by an operation of a device.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device failed in a way that condemns its bytes.
    #[error("{operation}: the device is broken: {cause}")]
    #[non_exhaustive]
    Broken {
        /// The operation.
        operation: &'static str,
        /// The report of the device.
        cause: Arc<str>,
    },
    /// The device cannot do the operation now. Try again.
    #[error("{operation}: the device could not do it now, try again: {cause}")]
    #[non_exhaustive]
    Busy {
        /// The operation.
        operation: &'static str,
        /// The report of the device.
        cause: Arc<str>,
    },
    /// The request was for an allocation of 0 bytes.
    #[error("an allocation needs at least one byte")]
    #[non_exhaustive]
    Empty {},
    /// The process is a forked child, which can only read inherited memory.
    #[error(transparent)]
    #[non_exhaustive]
    Forked {
        /// The proof.
        #[from]
        source: vram_trail::process::Forked,
    },
    /// The memory cannot be made read-only, but must be.
    #[error("the memory was not made read-only, which `Protection::Required` demands")]
    #[non_exhaustive]
    NotProtected {},
    /// The allocated memory does not lie where it must.
    #[error("the memory is not where it must be: {cause}")]
    #[non_exhaustive]
    NotResident {
        /// The finding.
        cause: Arc<str>,
    },
    /// The memory could not be wiped, so it is not returned: its next owner would find its content.
    #[error("the memory is not given back, since it was not wiped")]
    #[non_exhaustive]
    NotWiped {},
    /// A system call failed.
    #[error("{operation} failed: {}", io::Error::from_raw_os_error(*code))]
    #[non_exhaustive]
    Os {
        /// The system call.
        operation: &'static str,
        /// `errno`.
        code: i32,
    },
    /// There is not enough memory.
    #[error("{needed} bytes are needed, {available} can be had: the limit is {bound}")]
    #[non_exhaustive]
    OutOfMemory {
        /// Requested bytes.
        needed: u64,
        /// Available bytes.
        available: u64,
        /// The bound that applies.
        bound: Bound,
    },
    /// The range is out of bounds of the allocation.
    #[error("bytes {offset} to {end} are outside an allocation of {len} bytes")]
    #[non_exhaustive]
    OutOfRange {
        /// The first requested byte.
        offset: u64,
        /// The byte after the last requested one.
        end: u64,
        /// The allocation's length in bytes.
        len: u64,
    },
    /// The memory is read-only.
    #[error("the memory is read-only: it is sealed")]
    #[non_exhaustive]
    ReadOnly {},
    /// The memory was not zero after wiping.
    #[error("the memory does not keep what is written to it: it was not zero after wiping")]
    #[non_exhaustive]
    WipeFailed {},
}

impl DeviceError {
    /// Returns the meaning of the failure for the bytes.
    pub fn culpability(&self) -> Culpability {
        match self {
            Self::Broken { .. } | Self::NotResident { .. } | Self::WipeFailed {} => {
                Culpability::Broken
            }
            Self::Busy { .. }
            | Self::Empty {}
            | Self::Forked { .. }
            | Self::NotProtected {}
            | Self::NotWiped {}
            | Self::Os { .. }
            | Self::OutOfMemory { .. }
            | Self::OutOfRange { .. }
            | Self::ReadOnly {} => Culpability::Inconclusive,
        }
    }
}

/// The operations of a device, in a module that cannot be named outside.
pub(crate) mod backend {
    use std::fmt::Debug;
    use std::ops::{ControlFlow, Range};
    use std::sync::Arc;

    #[cfg(feature = "fault-injection")]
    use super::Faults;
    use super::{Available, Device, DeviceError, Residency};
    use vram_digest::{Digest, Node, Progress, Tree};

    /// The permission required by [`Backend::allocate`].
    ///
    /// Generic code outside can call the methods of a bound's supertraits even if it cannot name
    /// them. All critical methods take a [`Backend::Memory`], which only this permission can
    /// create.
    #[derive(Debug)]
    pub struct Permit(());

    impl Permit {
        pub(crate) fn mint() -> Self {
            Self(())
        }
    }

    /// The reason why there is no digest.
    #[derive(Debug)]
    pub enum DigestFailure {
        /// The device failed.
        Device(DeviceError),
        /// The progress callback stopped the work.
        Stopped,
    }

    /// The device's answer about all bytes of an allocation.
    #[derive(Debug)]
    pub enum Reading {
        /// Only the digest, from a device that hashes by itself.
        Digest(Digest),
        /// The whole tree, available anyway if this process hashes.
        Tree(Tree),
    }

    impl DigestFailure {
        /// Converts the failure where no callback can stop the work.
        pub(crate) fn unstopped(self) -> DeviceError {
            match self {
                Self::Device(error) => error,
                Self::Stopped => DeviceError::Busy {
                    operation: "digest",
                    cause: "stopped".into(),
                },
            }
        }
    }

    impl Reading {
        pub(crate) fn digest(&self) -> Digest {
            match self {
                Self::Digest(digest) => *digest,
                Self::Tree(tree) => tree.digest(),
            }
        }
    }

    /// The device's knowledge about an allocation.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Facts {
        /// Bytes taken from the device, at least the requested bytes.
        pub allocated: u64,
        /// Whether the memory is locked against swapping.
        pub locked: bool,
        /// Whether the memory-management unit refuses writes.
        pub read_only: bool,
        /// Whether the kernel refused to keep the memory out of core dumps.
        pub dumpable: bool,
        /// Whether the process has forked since the allocation: a child may have a copy that no
        /// wipe reaches.
        pub inherited: bool,
    }

    /// All allocations, each with a tag of the caller's; or the failure, with the tag of the
    /// request that caused it.
    pub(crate) type AllOrNone<M, T> = Result<Vec<(M, T)>, (T, DeviceError)>;

    /// The operations of a device. Offsets and lengths are in bytes.
    ///
    /// A `Memory` dropped without [`free`](Self::free) is wiped and freed as well, but the caller
    /// does not learn the outcome.
    pub trait Backend {
        /// An allocation, and the right to use it.
        type Memory: Debug + Send + Sync + 'static;

        /// The right to fill an allocation, on several threads.
        type Filler<'a>: Sync;

        /// Returns the name of the device in records and seals.
        fn name(&self) -> &Arc<str>;

        /// Returns the full identity of the device, as bound by seals.
        fn identity(&self) -> &Arc<str>;

        /// Returns the evidence about where allocations lie, or `None` if the question does not
        /// apply.
        fn residency(&self) -> Option<Residency>;

        /// Returns the reason if the device is lost: then none of its allocations can be trusted.
        fn lost(&self) -> Option<Arc<str>>;

        /// Returns the memory that can be allocated now.
        fn available(&self) -> Available;

        /// Allocates zeroed, writable memory of at least one byte.
        fn allocate(&self, len: u64, permit: Permit) -> Result<Self::Memory, DeviceError>;

        /// Allocates memory for all requests or for none. The allocations may only be made
        /// read-only together.
        fn allocate_all<T>(
            &self,
            wanted: Vec<(u64, T)>,
            permit: Permit,
        ) -> AllOrNone<Self::Memory, T>;

        /// Returns the facts about an allocation.
        fn facts(&self, memory: &Self::Memory) -> Facts;

        /// Writes bytes. They may arrive as late as the return of
        /// [`synchronize`](Self::synchronize).
        fn write(
            &self,
            memory: &mut Self::Memory,
            offset: u64,
            bytes: &[u8],
        ) -> Result<(), DeviceError>;

        /// Returns the right to fill the memory, which must be as writable as for
        /// [`write`](Self::write).
        fn filler<'a>(&self, memory: &'a mut Self::Memory)
        -> Result<Self::Filler<'a>, DeviceError>;

        /// As [`write`](Self::write), of one chunk ([`CHUNK_BYTES`](vram_digest::CHUNK_BYTES)), or less at
        /// the end.
        fn fill(
            &self,
            filler: &Self::Filler<'_>,
            offset: u64,
            chunk: &[u8],
        ) -> Result<(), DeviceError>;

        /// Waits until all earlier requests are complete.
        fn synchronize(&self, memory: &Self::Memory) -> Result<(), DeviceError>;

        /// Makes the memory read-only.
        fn protect(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Makes the memory writable again.
        fn unprotect(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Computes the tree over the bytes that the device holds.
        fn tree(
            &self,
            memory: &Self::Memory,
            progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        ) -> Result<Tree, DigestFailure>;

        /// Computes the digest of the bytes that the device holds.
        fn digest(
            &self,
            memory: &Self::Memory,
            progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        ) -> Result<Reading, DigestFailure>;

        /// Computes the digests of many allocations, at once where the device can.
        fn digests(&self, memories: &[&Self::Memory]) -> Result<Vec<Reading>, DeviceError> {
            let go_on = |_| ControlFlow::Continue(());
            let digest = |memory: &&Self::Memory| self.digest(memory, &mut { go_on });
            let digests: Result<_, _> = memories.iter().map(digest).collect();
            digests.map_err(DigestFailure::unstopped)
        }

        /// Computes the trees over many allocations, at once where the device can.
        fn trees(&self, memories: &[&Self::Memory]) -> Result<Vec<Tree>, DeviceError> {
            let go_on = |_| ControlFlow::Continue(());
            let tree = |memory: &&Self::Memory| self.tree(memory, &mut { go_on });
            let trees: Result<_, _> = memories.iter().map(tree).collect();
            trees.map_err(DigestFailure::unstopped)
        }

        /// Computes the nodes of some windows of the bytes that the device holds.
        fn windows(
            &self,
            memory: &Self::Memory,
            windows: Range<u64>,
        ) -> Result<Vec<Node>, DeviceError>;

        /// Returns the number of windows that this process hashes again after the device has hashed
        /// all by itself.
        fn spot_checks(&self) -> usize;

        /// Returns the node of a window, hashed by this process and not by the device.
        fn window_hashed_here(
            &self,
            memory: &Self::Memory,
            window: u64,
        ) -> Result<Node, DeviceError>;

        /// Overwrites all bytes with zeros, and checks them. Makes the memory writable first.
        fn wipe(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Frees the memory, and fails only if the freeing failed. [`wipe`](Self::wipe) comes
        /// before.
        ///
        /// If the wipe failed and the next owner would find the bytes, the memory is never freed,
        /// which is a failure too. Afterwards there are no bytes, and only dropping makes sense.
        fn free(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Returns the bytes.
        fn view<'a>(&self, memory: &'a Self::Memory) -> <Self as Device>::View<'a>
        where
            Self: Device;

        /// Returns the injected faults, if any: then a failure of the device may be one of them.
        #[cfg(feature = "fault-injection")]
        fn faults(&self) -> Option<&Faults>;

        /// Flips one bit as failing hardware would; protection does not stop it.
        #[cfg(feature = "fault-injection")]
        fn flip_bit(&self, memory: &Self::Memory, offset: u64, bit: u8) -> Result<(), DeviceError>;
    }
}
