//! Shards in the memory of an NVIDIA GPU, hashed in place.
//!
//! A kernel computes the tree in the GPU, and 32 bytes return; the bytes of a shard are not copied
//! back for a check. This file implements the device for the rest of the crate. The submodules hold
//! the parts: the driver's functions, its codes, the context, memory, the kernel's launches, and
//! opening.
//!
//! Calls of the driver and of cudarc's memory functions need `unsafe`. No other part of this device
//! has `unsafe` code.

#![allow(unsafe_code, reason = "the driver is a library of C functions")]

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use vram_digest::{Node, Progress, StreamDigest, Tree, WINDOW_BYTES};
use vram_trail::process;

use self::context::Context;
use self::driver::Driver;
use self::hash::{Bytes, Hasher};
use self::memory::{Allocator, CudaMemory};
use self::staging::Staging;
#[cfg(feature = "fault-injection")]
use super::Faults;
use super::backend::{AllOrNone, Backend, DigestFailure, Facts, Permit, Reading};
use super::{Available, Bound, Device, DeviceError, Residency};

pub use self::error::CudaError;
pub use self::open::{CudaBuilder, DEFAULT_SPOT_CHECKS, Protection};
pub use self::share::Share;
pub use self::view::CudaView;

mod code;
mod context;
mod driver;
mod error;
mod hash;
mod memory;
mod open;
mod packing;
mod pinned;
mod share;
mod slab;
mod staging;
mod view;

/// The alignment of plain memory in bytes: kernels read vectors of it.
const ALIGNMENT: usize = 256;

/// A GPU, as a device.
///
/// Uses the GPU's primary context, as do CUDA's runtime, candle and cubecl. Several values may be
/// opened for one GPU, and used from any thread.
///
/// ```no_run
/// use vram_residency::device::{Cuda, Share};
///
/// let gpu = Cuda::builder(0) // the first GPU
///     .share(Share::percent(10).unwrap()) // for checks beside a serving model
///     .open()?;
/// println!("{}", gpu.identity());
/// # Ok::<(), vram_residency::device::CudaError>(())
/// ```
pub struct Cuda {
    // In the required drop order.
    staging: Staging,
    hasher: Hasher,
    context: Arc<Context>,
    name: Arc<str>,
    identity: Arc<str>,
    residency: Residency,
    allocator: Allocator,
    spot_checks: usize,
    #[cfg(feature = "fault-injection")]
    faults: Option<Faults>,
}

/// Returns the SHA-256 of the shipped kernel, for the record `TrailOpened`.
pub(crate) fn kernel_sha256() -> StreamDigest {
    StreamDigest::from_bytes(Sha256::digest(hash::PTX).into())
}

impl Cuda {
    /// Returns a builder for the GPU with this number, counted as the driver does.
    pub fn builder(ordinal: u32) -> CudaBuilder {
        CudaBuilder::new(ordinal)
    }

    /// Returns the full identity of this GPU, as bound by seals: UUID, name, compute capability,
    /// ECC, driver.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the number of multiprocessors that checks are restricted to.
    ///
    /// Returns `None` if they may use all multiprocessors. Then the share is [`Share::ALL`], or the
    /// driver cannot restrict them, and only the number of threads is limited.
    pub fn multiprocessors(&self) -> Option<u32> {
        self.hasher.held_to()
    }
}

impl Device for Cuda {
    type View<'a> = CudaView<'a>;
}

impl Backend for Cuda {
    type Memory = CudaMemory;
    type Filler<'a> = &'a CudaMemory;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    fn residency(&self) -> Option<Residency> {
        Some(self.residency.clone())
    }

    fn lost(&self) -> Option<Arc<str>> {
        self.context.lost().cloned()
    }

    fn available(&self) -> Available {
        let info = self
            .context
            .within("ask for free memory", Driver::memory_info);
        Available {
            bytes: info.map_or(0, |(free, _)| free),
            bound: Bound::DeviceMemory,
        }
    }

    fn allocate(&self, len: u64, _permit: Permit) -> Result<CudaMemory, DeviceError> {
        check_len(len)?;
        let memory = CudaMemory::allocate(&self.context, self.allocator, len)?;
        // The driver's memory may hold data of another process.
        memory.overwrite()?;
        Ok(memory)
    }

    fn allocate_all<T>(&self, wanted: Vec<(u64, T)>, _permit: Permit) -> AllOrNone<CudaMemory, T> {
        let check = |(len, tag)| match check_len(len) {
            Ok(()) => Ok((len, tag)),
            Err(error) => Err((tag, error)),
        };
        let wanted = wanted.into_iter().map(check).collect::<Result<_, _>>()?;
        let given = CudaMemory::allocate_all(&self.context, self.allocator, wanted)?;
        let overwrite = |(memory, tag): (CudaMemory, T)| match memory.overwrite() {
            Ok(()) => Ok((memory, tag)),
            Err(error) => Err((tag, error)),
        };
        given.into_iter().map(overwrite).collect()
    }

    fn facts(&self, memory: &CudaMemory) -> Facts {
        Facts {
            allocated: memory.taken(),
            locked: true,
            read_only: memory.read_only,
            dumpable: false,
            inherited: false,
        }
    }

    fn write(&self, memory: &mut CudaMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let filler = self.filler(memory)?;
        self.fill(&filler, offset, bytes)
    }

    fn filler<'a>(&self, memory: &'a mut CudaMemory) -> Result<&'a CudaMemory, DeviceError> {
        process::check()?;
        if memory.read_only {
            return Err(DeviceError::ReadOnly {});
        }
        memory.wiped = false;
        Ok(memory)
    }

    fn fill(&self, filler: &&CudaMemory, offset: u64, chunk: &[u8]) -> Result<(), DeviceError> {
        let len = filler.len();
        let end = offset.saturating_add(chunk.len() as u64);
        if end > len {
            return Err(DeviceError::OutOfRange { offset, end, len });
        }
        let to = filler.address().saturating_add(offset);
        self.staging.write(to, chunk)
    }

    fn synchronize(&self, _memory: &CudaMemory) -> Result<(), DeviceError> {
        let stream = self.context.copies();
        self.context
            .within("wait", |driver| driver.synchronize_stream(stream))
    }

    fn protect(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        memory.protect(self.allocator)
    }

    fn unprotect(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        memory.unprotect()
    }

    fn tree(
        &self,
        memory: &CudaMemory,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tree, DigestFailure> {
        let all = whole(memory);
        let windows = all.len.div_ceil(WINDOW_BYTES as u64);
        let nodes = self.hasher.nodes(all, 0..windows, progress)?;
        Ok(Tree::from_nodes(all.len, nodes))
    }

    fn digest(
        &self,
        memory: &CudaMemory,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Reading, DigestFailure> {
        let all = whole(memory);
        let root = self.hasher.root(all, progress)?;
        Ok(Reading::Digest(Tree::digest_of(all.len, &root)))
    }

    fn digests(&self, memories: &[&CudaMemory]) -> Result<Vec<Reading>, DeviceError> {
        let all: Vec<Bytes> = memories.iter().map(|memory| whole(memory)).collect();
        let roots = self.hasher.roots(&all)?;
        let digest = |(bytes, root): (&Bytes, _)| Tree::digest_of(bytes.len, root);
        Ok(all
            .iter()
            .zip(&roots)
            .map(digest)
            .map(Reading::Digest)
            .collect())
    }

    fn trees(&self, memories: &[&CudaMemory]) -> Result<Vec<Tree>, DeviceError> {
        let all: Vec<Bytes> = memories.iter().map(|memory| whole(memory)).collect();
        let trees = self.hasher.trees(&all)?;
        let tree = |(bytes, nodes): (&Bytes, _)| Tree::from_nodes(bytes.len, nodes);
        Ok(all.iter().zip(trees).map(tree).collect())
    }

    fn windows(&self, memory: &CudaMemory, windows: Range<u64>) -> Result<Vec<Node>, DeviceError> {
        let go_on = &mut |_| ControlFlow::Continue(());
        let nodes = self.hasher.nodes(whole(memory), windows, go_on);
        nodes.map_err(DigestFailure::unstopped)
    }

    fn spot_checks(&self) -> usize {
        self.spot_checks
    }

    fn window_hashed_here(&self, memory: &CudaMemory, window: u64) -> Result<Node, DeviceError> {
        process::check()?;
        let start = window.saturating_mul(WINDOW_BYTES as u64);
        let left = memory.len().saturating_sub(start);
        let from = memory.address().saturating_add(start);
        let len = usize::try_from(left).unwrap_or(usize::MAX);
        self.staging.hash_window(window, from, len)
    }

    fn wipe(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        process::check()?;
        if memory.wiped {
            return Ok(());
        }
        memory.zero()?;
        // The check must read all of the memory, and not derive the answer from the write.
        let all = Bytes {
            address: memory.address(),
            len: memory.taken(),
        };
        let roots = self.hasher.roots(&[all])?;
        if roots.first() != Some(&Tree::of_zeros(all.len).root()) {
            return Err(DeviceError::WipeFailed {});
        }
        memory.wiped = true;
        Ok(())
    }

    fn free(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        if !memory.wiped {
            memory.leak();
            return Err(DeviceError::NotWiped {});
        }
        // If the release fails, the destructor must not free the memory either: the trail says that
        // it is kept.
        memory.give_back().inspect_err(|_| memory.leak())
    }

    fn view<'a>(&self, memory: &'a CudaMemory) -> CudaView<'a> {
        CudaView::new(memory)
    }

    #[cfg(feature = "fault-injection")]
    fn faults(&self) -> Option<&Faults> {
        self.faults.as_ref()
    }

    #[cfg(feature = "fault-injection")]
    fn flip_bit(&self, memory: &CudaMemory, offset: u64, bit: u8) -> Result<(), DeviceError> {
        if offset >= memory.len() {
            return Err(DeviceError::OutOfRange {
                offset,
                end: offset.saturating_add(1),
                len: memory.len(),
            });
        }
        self.synchronize(memory)?;
        let at = memory.address().saturating_add(offset);
        memory.while_writable(|| self.staging.flip(at, bit))
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("name", &self.name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Checks that the length is not 0 and can be hashed.
fn check_len(len: u64) -> Result<(), DeviceError> {
    match len {
        0 => Err(DeviceError::Empty {}),
        1..=hash::MAX_LEN => Ok(()),
        _ => Err(DeviceError::OutOfMemory {
            needed: len,
            available: hash::MAX_LEN,
            bound: Bound::AddressSpace,
        }),
    }
}

fn whole(memory: &CudaMemory) -> Bytes {
    Bytes {
        address: memory.address(),
        len: memory.len(),
    }
}
