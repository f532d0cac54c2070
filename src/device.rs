//! Where shards live: the [`Device`] trait, and what a device can say.
//!
//! A device allocates memory, fills it, protects it, hashes it where it lies, and wipes it. The trait
//! is public so that a manager can be named with its device; what a device *does* is in a trait of a
//! private module, which code outside can neither implement nor use. This module knows memory and
//! bytes; it does not know what a seal is, nor whether any bytes are good.

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
/// The crate through which views of shards in a GPU are used, in the version that this one takes.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "fault-injection")]
pub(crate) use faults::Struck;
#[cfg(feature = "fault-injection")]
pub use faults::{Faults, Operation};
pub use host::Host;
pub(crate) use host::try_calls;

/// A place where shards live. Implemented by [`Host`], and with the feature `cuda` by `Cuda`; sealed.
pub trait Device: backend::Backend + fmt::Debug + Send + Sync + 'static {
    /// A read-only view of a shard's bytes, of exactly the shard's length.
    type View<'a>;
}

/// How much can be allocated, and what sets the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What sets the limit.
    pub bound: Bound,
}

/// What limits the memory that can be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// What one allocation can have at most on this machine: nothing else is known to limit it, since
    /// neither `/proc/meminfo` nor a limit of a cgroup can be read.
    AddressSpace,
    /// The memory limit of the process's cgroup, or of one above it.
    Cgroup,
    /// `memory.high` of the process's cgroup, or of one above it: a process that needs more is not
    /// killed, but is slowed down until hardly anything is left of it.
    CgroupHigh,
    /// The memory of the GPU that nobody uses.
    DeviceMemory,
    /// A limit that the manager was built with.
    ManagerLimit,
    /// What Linux can give without swapping: `MemAvailable` in `/proc/meminfo`.
    MemAvailable,
}

impl Available {
    /// The bytes for a record. None: how many is not known.
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

/// What could be found out about where a device's allocations lie.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Residency {
    /// What was proven.
    pub proven: Arc<str>,
    /// What could not be.
    pub unproven: Arc<str>,
    /// Why nobody can say that allocations lie in the device's own memory; then none is made.
    pub refused: Option<Arc<str>>,
}

/// What a failure of a device says about the bytes that it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Culpability {
    /// The bytes, or the device that holds them, cannot be trusted any more: an uncorrectable memory
    /// error, an illegal address, a lost context.
    Broken,
    /// Nothing: the question could not be answered now, and can be asked again.
    Inconclusive,
}

/// A device did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device failed in a way that says something about its bytes.
    #[error("{operation}: the device is broken: {cause}")]
    #[non_exhaustive]
    Broken {
        /// What was being done.
        operation: &'static str,
        /// What the device reported.
        cause: Arc<str>,
    },
    /// The device could not do it now.
    #[error("{operation}: the device could not do it now, try again: {cause}")]
    #[non_exhaustive]
    Busy {
        /// What was being done.
        operation: &'static str,
        /// What the device reported.
        cause: Arc<str>,
    },
    /// An allocation without bytes was asked for.
    #[error("an allocation needs at least one byte")]
    #[non_exhaustive]
    Empty {},
    /// The process is a forked child, which can read what it inherited and do nothing else.
    #[error(transparent)]
    #[non_exhaustive]
    Forked {
        /// The proof.
        #[from]
        source: vram_trail::process::Forked,
    },
    /// The memory cannot be made read-only, and must be.
    #[error("the memory was not made read-only, which `Protection::Required` demands")]
    #[non_exhaustive]
    NotProtected {},
    /// Memory that was given does not lie where it must.
    #[error("the memory is not where it must be: {cause}")]
    #[non_exhaustive]
    NotResident {
        /// What was found.
        cause: Arc<str>,
    },
    /// What the memory held could not be wiped, and whoever gets it next would find that.
    #[error("the memory is not given back, since it was not wiped")]
    #[non_exhaustive]
    NotWiped {},
    /// The system refused.
    #[error("{operation} failed: {}", io::Error::from_raw_os_error(*code))]
    #[non_exhaustive]
    Os {
        /// The system call.
        operation: &'static str,
        /// `errno`.
        code: i32,
    },
    /// There is not as much memory.
    #[error("{needed} bytes are needed, {available} can be had: the limit is {bound}")]
    #[non_exhaustive]
    OutOfMemory {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
        /// What sets the limit.
        bound: Bound,
    },
    /// Something outside an allocation was meant.
    #[error("bytes {offset} to {end} are outside an allocation of {len} bytes")]
    #[non_exhaustive]
    OutOfRange {
        /// The first byte meant.
        offset: u64,
        /// The byte after the last one meant.
        end: u64,
        /// The allocation's length in bytes.
        len: u64,
    },
    /// The memory is read-only.
    #[error("the memory is read-only: it is sealed")]
    #[non_exhaustive]
    ReadOnly {},
    /// Memory was not zero after it had been wiped.
    #[error("the memory does not keep what is written to it: it was not zero after wiping")]
    #[non_exhaustive]
    WipeFailed {},
}

impl DeviceError {
    /// What the failure says about the bytes.
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

/// What a device does. In a module of its own that cannot be named outside.
pub(crate) mod backend {
    use std::fmt::Debug;
    use std::ops::{ControlFlow, Range};
    use std::sync::Arc;

    #[cfg(feature = "fault-injection")]
    use super::Faults;
    use super::{Available, Device, DeviceError, Residency};
    use vram_digest::{Digest, Node, Progress, Tree};

    /// Demanded by [`Backend::allocate`].
    ///
    /// Generic code outside can call the methods of a bound's supertraits even if it cannot name
    /// them. All that matter take a [`Backend::Memory`], and that begins with this.
    #[derive(Debug)]
    pub struct Permit(());

    impl Permit {
        pub(crate) fn mint() -> Self {
            Self(())
        }
    }

    /// Why there is no digest.
    #[derive(Debug)]
    pub enum DigestFailure {
        /// The device failed.
        Device(DeviceError),
        /// The progress callback said so.
        Stopped,
    }

    /// What a device says about all bytes of an allocation.
    #[derive(Debug)]
    pub enum Reading {
        /// Their digest: that is all that came back from a device that hashes by itself.
        Digest(Digest),
        /// The tree over them, which a device has anyway if this process does the hashing.
        Tree(Tree),
    }

    impl DigestFailure {
        /// The failure where no callback can stop anything.
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

    /// What is known about an allocation.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Facts {
        /// Bytes taken from the device, at least those asked for.
        pub allocated: u64,
        /// It cannot be swapped out.
        pub locked: bool,
        /// The memory-management unit refuses writes.
        pub read_only: bool,
        /// The kernel has refused to keep the memory out of core dumps.
        pub dumpable: bool,
        /// A child may have a copy that no wipe reaches: the process has forked since the allocation.
        pub inherited: bool,
    }

    /// Many things, each with something of the caller's; or a failure, with that of the one at which it was
    /// found.
    pub(crate) type AllOrNone<M, T> = Result<Vec<(M, T)>, (T, DeviceError)>;

    /// The operations of a device. Offsets and lengths are in bytes.
    ///
    /// Whoever drops a `Memory` without calling [`free`](Self::free) gets it wiped and freed all the
    /// same, but learns nothing about the outcome.
    pub trait Backend {
        /// An allocation, and the right to it.
        type Memory: Debug + Send + Sync + 'static;

        /// The right to fill an allocation, on several threads.
        type Filler<'a>: Sync;

        /// Which device this is, as records and seals name it.
        fn name(&self) -> &Arc<str>;

        /// Everything that tells this device from others, as seals bind it.
        fn identity(&self) -> &Arc<str>;

        /// What could be found out about where allocations lie; none if that is no question.
        fn residency(&self) -> Option<Residency>;

        /// Why nothing works any more, if that is so: then no allocation of this device can be
        /// trusted.
        fn lost(&self) -> Option<Arc<str>>;

        /// What can be allocated now.
        fn available(&self) -> Available;

        /// Zeroed memory, writable, of at least one byte.
        fn allocate(&self, len: u64, permit: Permit) -> Result<Self::Memory, DeviceError>;

        /// The same for many that will be made read-only together and not one by one, or for none.
        fn allocate_all<T>(
            &self,
            wanted: Vec<(u64, T)>,
            permit: Permit,
        ) -> AllOrNone<Self::Memory, T>;

        /// What is known about an allocation.
        fn facts(&self, memory: &Self::Memory) -> Facts;

        /// Writes bytes; they need not have arrived before [`synchronize`](Self::synchronize).
        fn write(
            &self,
            memory: &mut Self::Memory,
            offset: u64,
            bytes: &[u8],
        ) -> Result<(), DeviceError>;

        /// The right to fill the memory with bytes; as writable as it must be for
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

        /// Waits until everything asked for so far is done.
        fn synchronize(&self, memory: &Self::Memory) -> Result<(), DeviceError>;

        /// Makes the memory read-only.
        fn protect(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Makes the memory writable again.
        fn unprotect(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// The tree over what the device holds.
        fn tree(
            &self,
            memory: &Self::Memory,
            progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        ) -> Result<Tree, DigestFailure>;

        /// The digest of what the device holds.
        fn digest(
            &self,
            memory: &Self::Memory,
            progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        ) -> Result<Reading, DigestFailure>;

        /// The digests of what the device holds in many allocations, at once where it can.
        fn digests(&self, memories: &[&Self::Memory]) -> Result<Vec<Reading>, DeviceError> {
            let go_on = |_| ControlFlow::Continue(());
            let digest = |memory: &&Self::Memory| self.digest(memory, &mut { go_on });
            let digests: Result<_, _> = memories.iter().map(digest).collect();
            digests.map_err(DigestFailure::unstopped)
        }

        /// The trees over what the device holds in many allocations, at once where it can.
        fn trees(&self, memories: &[&Self::Memory]) -> Result<Vec<Tree>, DeviceError> {
            let go_on = |_| ControlFlow::Continue(());
            let tree = |memory: &&Self::Memory| self.tree(memory, &mut { go_on });
            let trees: Result<_, _> = memories.iter().map(tree).collect();
            trees.map_err(DigestFailure::unstopped)
        }

        /// The nodes of some windows of what the device holds.
        fn windows(
            &self,
            memory: &Self::Memory,
            windows: Range<u64>,
        ) -> Result<Vec<Node>, DeviceError>;

        /// How many windows are hashed a second time, by this process, whenever the device has hashed
        /// everything by itself.
        fn spot_checks(&self) -> usize;

        /// The node of a window, hashed by this process and not by the device.
        fn window_hashed_here(
            &self,
            memory: &Self::Memory,
            window: u64,
        ) -> Result<Node, DeviceError>;

        /// Overwrites everything with zeros and checks it; makes the memory writable first.
        fn wipe(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// Gives the memory back, and fails only if that did: what it held is wiped before, by
        /// [`wipe`](Self::wipe). Where the next owner would find what was not wiped, the memory is
        /// never given back then, which is a failure, too. Afterwards there are no bytes any more, and
        /// every operation but dropping is pointless.
        fn free(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

        /// The bytes.
        fn view<'a>(&self, memory: &'a Self::Memory) -> <Self as Device>::View<'a>
        where
            Self: Device;

        /// The faults that the device was given, if it was: then what fails on it may be one.
        #[cfg(feature = "fault-injection")]
        fn faults(&self) -> Option<&Faults>;

        /// Flips one bit as failing hardware would: protection does not stop it.
        #[cfg(feature = "fault-injection")]
        fn flip_bit(&self, memory: &Self::Memory, offset: u64, bit: u8) -> Result<(), DeviceError>;
    }
}
