//! Shards in the memory of a GPU of NVIDIA's, hashed where they lie.
//!
//! The bytes of a shard never come back to be checked: a kernel computes the tree in the GPU, and 32 bytes
//! return. This file is the device as the rest of the crate sees it; the parts are below: the driver's
//! functions, its codes, the context, memory, the kernel's launches, and the way in.
//!
//! `unsafe` is needed to call the driver and to tell cudarc about memory. It is in these files and in no
//! other of the device.

#![allow(unsafe_code, reason = "the driver is a library of C functions")]

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaStream;
use sha2::{Digest as _, Sha256};

use self::context::Context;
use self::driver::{Driver, Failed, Properties};
use self::hash::{Bytes, Hasher};
use self::memory::{Allocator, CudaMemory};
use self::staging::Staging;
pub use self::view::CudaView;
#[cfg(feature = "fault-injection")]
use super::Faults;
use super::backend::{Backend, DigestFailure, Facts, Permit, Reading};
use super::{Available, Bound, Device, DeviceError, Residency};
use crate::digest::{Digest, Node, Progress, StreamDigest, Tree, WINDOW_BYTES};
use crate::process::{self, Forked};

mod code;
mod context;
mod driver;
mod hash;
mod memory;
mod staging;
mod view;

/// How many windows are copied back and hashed by the CPU after each digest, unless configured.
pub const DEFAULT_SPOT_CHECKS: usize = 16;

/// The oldest driver, as CUDA numbers them: 11.0, the first that takes the kernel's PTX 7.0.
const MIN_DRIVER: i32 = 11_000;

/// The oldest compute capability, that of Turing.
const MIN_CAPABILITY: (i32, i32) = (7, 5);

/// What plain memory is a multiple of, in bytes: kernels read vectors of it.
const ALIGNMENT: usize = 256;

/// What there is where Windows runs below Linux.
const WSL: &str = "/dev/dxg";

/// A GPU.
///
/// Its primary context is used, as by everything that shares memory with CUDA's runtime, candle or
/// cubecl. Several may be opened for one GPU, and used from any thread.
///
/// ```no_run
/// use vram_residency::device::{Cuda, Share};
///
/// let gpu = Cuda::builder(0) // the first GPU
///     .share(Share::percent(10).unwrap()) // of its threads, for checks beside a serving model
///     .open()?;
/// println!("{}", gpu.identity());
/// # Ok::<(), vram_residency::device::CudaError>(())
/// ```
pub struct Cuda {
    // In the order in which they must go.
    staging: Mutex<Staging>,
    hasher: Hasher,
    views: Arc<CudaStream>,
    context: Arc<Context>,
    name: Arc<str>,
    identity: Arc<str>,
    residency: Residency,
    allocator: Allocator,
    spot_checks: usize,
    #[cfg(feature = "fault-injection")]
    faults: Option<Faults>,
}

/// What a [`Cuda`] is opened from.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open` is called"]
pub struct CudaBuilder {
    ordinal: u32,
    protection: Protection,
    share: Share,
    spot_checks: usize,
    #[cfg(feature = "fault-injection")]
    faults: Option<Faults>,
}

/// Whether sealed memory must be read-only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Protection {
    /// A GPU that cannot do that is not opened.
    #[default]
    Required,
    /// Where it cannot, shards are sealed all the same: a stray kernel can then write to them, which the
    /// next check finds, and an address may be used again after its shard is gone. `VramSealed` says
    /// `read_only: false`.
    WhereAvailable,
}

/// How much of a GPU checks may use at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share(u8);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(100);

    /// So many per cent of the threads that the GPU can run at once, from 1 to 100; none otherwise.
    pub fn percent(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// So many of `most`, at least one.
    fn of(self, most: u32) -> u32 {
        (most.saturating_mul(self.0.into()) / 100).max(1)
    }
}

/// A GPU was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The device failed on the way.
    #[error("the GPU did not do what opening it needs")]
    #[non_exhaustive]
    Device {
        /// How.
        #[from]
        source: DeviceError,
    },
    /// The driver failed.
    #[error("CUDA's driver failed: {cause}: see whether `nvidia-smi` works")]
    #[non_exhaustive]
    Driver {
        /// The call, and its code.
        cause: String,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The kernel gives a wrong digest for data whose digest is known.
    #[error(
        "the GPU computes wrong digests: of {len} known bytes it says {actual}: do not use it, and have it tested"
    )]
    #[non_exhaustive]
    KnownAnswer {
        /// Bytes hashed.
        len: u64,
        /// What it says.
        actual: Digest,
    },
    /// The driver lacks a function.
    #[error("CUDA's driver lacks {symbol}: it is older than 11.2, or not NVIDIA's: update it")]
    #[non_exhaustive]
    MissingSymbol {
        /// The function.
        symbol: &'static str,
    },
    /// There is no such GPU.
    #[error(
        "there is no GPU {ordinal}: the driver sees {count} (numbered from 0; CUDA_VISIBLE_DEVICES limits them)"
    )]
    #[non_exhaustive]
    NoDevice {
        /// The number asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// There is no driver.
    #[error(
        "CUDA's driver was not found (libcuda.so.1): install NVIDIA's driver, give the container its GPU (`--gpus`), or use host memory"
    )]
    NoDriver,
    /// The GPU cannot make memory read-only.
    #[error(
        "the GPU or its driver cannot make memory read-only: update the driver, or ask for `Protection::WhereAvailable`"
    )]
    NotProtected,
    /// The driver is too old.
    #[error("CUDA's driver supports CUDA {version}, and 11.2 is needed: update it")]
    #[non_exhaustive]
    TooOld {
        /// What it supports.
        version: String,
    },
    /// The GPU is too old.
    #[error("the GPU has compute capability {major}.{minor}, and 7.5 (Turing) is needed")]
    #[non_exhaustive]
    TooOldGpu {
        /// Of its compute capability.
        major: i32,
        /// Of its compute capability.
        minor: i32,
    },
}

impl CudaError {
    fn driver(driver: Option<&Driver>) -> impl Fn(Failed) -> Self {
        move |failed| match failed.code {
            100 => Self::NoDevice {
                ordinal: 0,
                count: 0,
            },
            _ => Self::Driver {
                cause: code::text(driver, failed),
            },
        }
    }
}

/// The SHA-256 of the kernel that ships, as `TrailOpened` states it.
pub(crate) fn kernel_sha256() -> StreamDigest {
    StreamDigest::from_bytes(Sha256::digest(hash::PTX).into())
}

impl Cuda {
    /// Begins to open a GPU, by its number as the driver has it.
    pub fn builder(ordinal: u32) -> CudaBuilder {
        CudaBuilder {
            ordinal,
            protection: Protection::default(),
            share: Share::ALL,
            spot_checks: DEFAULT_SPOT_CHECKS,
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// What tells this GPU from others, as seals bind it: UUID, name, compute capability, ECC, driver.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes data whose digests are known. They are the test vectors of fsverity-utils, from one block
    /// to three levels.
    fn check_known_answers(&self) -> Result<(), CudaError> {
        const ANSWERS: [(u64, &str); 5] = [
            (
                1,
                "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
            ),
            (
                4096,
                "6ac39979016e3ddf3d39fff6cb984f7c118acdf1852919f5c100c4b142c1818e",
            ),
            (
                100_000,
                "f2096a36c5cdca4fa33ee8852833150bb324992e5417a9d571f1bffff73b9efc",
            ),
            (
                524_288,
                "318d7f64c1db10a983346f0c101c5b0fd2cb0e0c3d4e88df0320edf9990bdda4",
            ),
            (
                524_289,
                "e21e7d7f576f210094c3a6ea78b021f036633f2a06119fee987f79ac6dd30cf1",
            ),
        ];
        let data: Vec<u8> = (0..524_289_u32)
            .map(|index| {
                (index % 11)
                    .wrapping_add(index % 439)
                    .wrapping_add(index % 1103) as u8
            })
            .collect();
        let mut memory = self.allocate(data.len() as u64, Permit::mint())?;
        self.write(&mut memory, 0, &data)?;
        self.synchronize(&memory)?;
        let parts = ANSWERS.map(|(len, _)| Bytes {
            address: memory.address(),
            len,
        });
        let roots = self.hasher.roots(&parts)?;
        for ((len, answer), root) in ANSWERS.into_iter().zip(roots) {
            let actual = Tree::digest_of(len, &root);
            if actual.to_string() != answer {
                return Err(CudaError::KnownAnswer { len, actual });
            }
        }
        self.wipe(&mut memory)?;
        Ok(self.free(&mut memory)?)
    }
}

impl CudaBuilder {
    /// Whether sealed memory must be read-only; without this, [`Protection::Required`].
    pub fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// How much of the GPU checks may use at a time; without this, [`Share::ALL`]. They have the lowest
    /// priority in any case: where both have work, a model's kernels go first.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// How many windows, chosen at random, are copied back and hashed by the CPU after each digest of a
    /// whole shard; without this, [`DEFAULT_SPOT_CHECKS`]. All of them, if the shard has no more.
    ///
    /// They are there for a kernel, a compiler or a driver that computes wrongly, not against somebody
    /// who rules the GPU. Of `n` windows of which the kernel gets `k` wrong (and still gives the sealed
    /// digest), `s` spot checks miss all with a probability of at most `(1 - k/n)^s`: with 16 a kernel
    /// that gets a quarter of them wrong is missed once in a hundred times, one that gets a single window
    /// of an 80 GB shard wrong nearly always. Each costs a copy of 512 KiB.
    pub fn spot_checks(mut self, windows: usize) -> Self {
        self.spot_checks = windows;
        self
    }

    /// A GPU with faults on demand.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_with_faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Finds the driver and the GPU, loads the kernel, has it hash data whose digests are known, and
    /// finds out whether memory can be made read-only. Takes 16 MiB of the GPU, whatever the size of
    /// shards, and some 3 MiB of pinned memory.
    pub fn open(self) -> Result<Cuda, CudaError> {
        process::check()?;
        process::watch_for_forks().map_err(|error| DeviceError::Os {
            operation: "watching for forks",
            code: error.raw_os_error().unwrap_or_default(),
        })?;
        let driver = Driver::load()?;
        let gpu = self.find(driver)?;
        let context = Arc::new(Context::open(driver, self.ordinal as usize)?);
        let granularity = self.granularity(&context, gpu.device)?;
        let views = context.within("create a stream", |_| {
            let stream = context.shared().new_stream();
            stream.map_err(|error| Failed {
                call: "cuStreamCreate",
                code: error.0 as u32,
            })
        })?;
        let cuda = Cuda {
            staging: Mutex::new(Staging::new(&context)?),
            hasher: Hasher::new(&context, gpu.multiprocessors, self.share)?,
            views,
            name: format!("cuda:{}", self.ordinal).into(),
            identity: gpu.identity.as_str().into(),
            residency: Residency {
                proven: proven(granularity.is_some()).into(),
                unproven: "that the driver and the GPU's firmware keep allocations where they say"
                    .into(),
                refused: refusal(gpu.is_integrated, Path::new(WSL).exists()).map(Into::into),
            },
            allocator: Allocator {
                device: gpu.device,
                granularity,
                protection: self.protection,
            },
            spot_checks: self.spot_checks,
            #[cfg(feature = "fault-injection")]
            faults: self.faults,
            context,
        };
        if cuda.residency.refused.is_none() {
            cuda.check_known_answers()?;
        }
        Ok(cuda)
    }

    fn find(&self, driver: &Driver) -> Result<Gpu, CudaError> {
        const MULTIPROCESSORS: u32 = 16;
        const INTEGRATED: u32 = 18;
        const ECC: u32 = 32;
        const MAJOR: u32 = 75;
        const MINOR: u32 = 76;
        let failed = CudaError::driver(Some(driver));
        let count = u32::try_from(driver.device_count().map_err(&failed)?).unwrap_or(0);
        let ordinal = i32::try_from(self.ordinal).unwrap_or(i32::MAX);
        if self.ordinal >= count {
            return Err(CudaError::NoDevice {
                ordinal: self.ordinal,
                count,
            });
        }
        let device = driver.device(ordinal).map_err(&failed)?;
        let attribute = |attribute| driver.device_attribute(attribute, device).map_err(&failed);
        let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
        if (major, minor) < MIN_CAPABILITY {
            return Err(CudaError::TooOldGpu { major, minor });
        }
        let uuid = hex::encode(driver.device_uuid(device).map_err(&failed)?);
        let name = driver.device_name(device).map_err(&failed)?;
        let ecc = match attribute(ECC)? {
            0 => "off",
            _ => "on",
        };
        Ok(Gpu {
            device,
            multiprocessors: u32::try_from(attribute(MULTIPROCESSORS)?).unwrap_or(1),
            is_integrated: attribute(INTEGRATED)? != 0,
            identity: format!(
                "{} {name}, compute capability {major}.{minor}, ECC {ecc}, driver for CUDA {}",
                with_dashes(&uuid),
                driver.version(),
            ),
        })
    }

    /// In what units memory can be mapped and made read-only; none if it cannot, and need not.
    fn granularity(&self, context: &Context, device: i32) -> Result<Option<usize>, CudaError> {
        const VIRTUAL_MEMORY: u32 = 102;
        let driver = context.driver();
        let has = driver
            .device_attribute(VIRTUAL_MEMORY, device)
            .map_err(CudaError::driver(Some(driver)))?;
        let tried = context.within("try protection", |driver| {
            if has == 0 {
                return Ok(None);
            }
            let granularity = driver.granularity(&Properties::pinned_on(device))?;
            let can = memory::can_protect(driver, device, granularity)?;
            Ok(can.then_some(granularity))
        });
        match (tried, self.protection) {
            (Ok(Some(granularity)), _) => Ok(Some(granularity)),
            (Ok(None), Protection::Required) => Err(CudaError::NotProtected),
            (Ok(None), Protection::WhereAvailable) => Ok(None),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// What was found out about a GPU.
struct Gpu {
    device: i32,
    multiprocessors: u32,
    is_integrated: bool,
    identity: String,
}

/// A UUID as `nvidia-smi` prints it.
fn with_dashes(hex: &str) -> String {
    let mut text = String::from("GPU");
    let mut left = hex;
    for len in [8, 4, 4, 4, 12] {
        let (part, rest) = left.split_at_checked(len).unwrap_or((left, ""));
        text.push('-');
        text.push_str(part);
        left = rest;
    }
    text
}

fn proven(can_protect: bool) -> &'static str {
    if can_protect {
        "a GPU with memory of its own, not below Windows; each allocation is device memory, not managed, and on this GPU; read-only mappings were tried and read back"
    } else {
        "a GPU with memory of its own, not below Windows; each allocation is device memory, not managed, and on this GPU; memory cannot be made read-only"
    }
}

/// Why nobody can say that memory lies in the GPU, if that is so.
fn refusal(is_integrated: bool, is_wsl: bool) -> Option<&'static str> {
    if is_integrated {
        Some("the GPU is integrated: its memory is the host's, and there is no VRAM")
    } else if is_wsl {
        Some(
            "this is Windows' subsystem for Linux (/dev/dxg): Windows may move a GPU's memory into the host's without saying so",
        )
    } else {
        None
    }
}

impl Device for Cuda {
    type View<'a> = CudaView<'a>;
}

impl Backend for Cuda {
    type Memory = CudaMemory;

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
        if len == 0 {
            return Err(DeviceError::Empty);
        }
        if len > hash::MAX_LEN {
            return Err(DeviceError::OutOfMemory {
                needed: len,
                available: hash::MAX_LEN,
                bound: Bound::AddressSpace,
            });
        }
        let memory = CudaMemory::allocate(&self.context, &self.views, self.allocator, len)?;
        // Memory of the driver's may hold what another process left.
        memory.overwrite()?;
        Ok(memory)
    }

    fn facts(&self, memory: &CudaMemory) -> Facts {
        Facts {
            allocated: memory.mapped(),
            locked: true,
            read_only: memory.read_only,
        }
    }

    fn write(&self, memory: &mut CudaMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        process::check()?;
        let len = memory.len();
        let end = offset.saturating_add(bytes.len() as u64);
        if end > len {
            return Err(DeviceError::OutOfRange { offset, end, len });
        }
        if memory.read_only {
            return Err(DeviceError::ReadOnly);
        }
        memory.wiped = false;
        let to = memory.address().saturating_add(offset);
        self.staging().write(to, bytes)
    }

    fn synchronize(&self, _memory: &CudaMemory) -> Result<(), DeviceError> {
        let stream = self.context.copies();
        self.context
            .within("wait", |driver| driver.synchronize_stream(stream))
    }

    fn protect(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        memory.protect(self.allocator.protection)
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
        self.staging().hash_window(window, from, len)
    }

    fn wipe(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        process::check()?;
        if memory.wiped {
            return Ok(());
        }
        memory.zero()?;
        // All that is mapped has to be read back, not to be concluded.
        let all = Bytes {
            address: memory.address(),
            len: memory.mapped(),
        };
        let roots = self.hasher.roots(&[all])?;
        if roots.first() != Some(&Tree::of_zeros(all.len).root()) {
            return Err(DeviceError::WipeFailed);
        }
        memory.wiped = true;
        Ok(())
    }

    fn free(&self, memory: &mut CudaMemory) -> Result<(), DeviceError> {
        memory.give_back()
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
        memory.while_writable(|| self.staging().flip(at, bit))
    }
}

impl Drop for Cuda {
    /// In a forked child, neither the driver nor what it gave is this process's.
    fn drop(&mut self) {
        if process::check().is_err() {
            let _left = std::mem::ManuallyDrop::new(Arc::clone(&self.views));
        }
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

fn whole(memory: &CudaMemory) -> Bytes {
    Bytes {
        address: memory.address(),
        len: memory.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_may_be_the_hosts_is_refused() {
        assert_eq!(refusal(false, false), None);
        assert!(refusal(true, false).unwrap().contains("integrated"));
        assert!(refusal(false, true).unwrap().contains("/dev/dxg"));
    }

    #[test]
    fn a_share_is_never_nothing() {
        assert_eq!(Share::percent(0), None);
        assert_eq!(Share::percent(101), None);
        assert_eq!(Share::percent(10).unwrap().of(1320), 132);
        assert_eq!(Share::percent(1).unwrap().of(8), 1);
        assert_eq!(Share::ALL.of(1320), 1320);
    }

    #[test]
    fn a_uuid_looks_as_the_operator_knows_it() {
        assert_eq!(
            with_dashes("00112233445566778899aabbccddeeff"),
            "GPU-00112233-4455-6677-8899-aabbccddeeff"
        );
    }
}
