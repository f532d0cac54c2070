//! Opening a GPU: its identity, its abilities, and a test that it computes correctly.
//!
//! This module does not know shards.

use std::path::Path;
use std::sync::Arc;

use vram_digest::Tree;
use vram_trail::process;

use super::context::Context;
use super::driver::{Driver, Properties};
use super::hash::{Bytes, Hasher};
use super::memory::{self, Allocator};
use super::share::Share;
use super::staging::Staging;
use super::{Cuda, CudaError};
#[cfg(feature = "fault-injection")]
use crate::device::Faults;
use crate::device::backend::{Backend as _, Permit};
use crate::device::{DeviceError, Residency};

/// The default number of windows that the CPU copies back and hashes after each digest.
pub const DEFAULT_SPOT_CHECKS: usize = 16;

/// The oldest supported compute capability: Turing.
const MIN_CAPABILITY: (i32, i32) = (7, 5);

/// A file that exists where Linux runs under Windows.
const WSL: &str = "/dev/dxg";

/// The builder of a [`Cuda`].
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
    /// A GPU that cannot protect memory is not opened.
    #[default]
    Required,
    /// A GPU that cannot protect memory is opened, and its shards are sealed without protection.
    ///
    /// A stray kernel can then write to them, which the next check finds. Without virtual memory,
    /// an address may also be reused after its shard is gone. `VramSealed` says `read_only: false`.
    WhereAvailable,
}

impl CudaBuilder {
    pub(super) fn new(ordinal: u32) -> Self {
        Self {
            ordinal,
            protection: Protection::default(),
            share: Share::ALL,
            spot_checks: DEFAULT_SPOT_CHECKS,
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// Sets whether sealed memory must be read-only. The default is [`Protection::Required`].
    pub fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// Sets the share of the GPU that checks may use at a time. The default is [`Share::ALL`].
    ///
    /// Checks always have the lowest priority. An ordinary stream has the same priority (0; the
    /// best is -5 on today's GPUs). A model whose kernels must go first needs streams of a higher,
    /// negative priority, as from `CudaContext::new_stream_with_priority`.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// Sets the number of spot checks: random windows that the CPU copies back and hashes.
    ///
    /// They follow each digest of a shard or of some of its windows. The default is
    /// [`DEFAULT_SPOT_CHECKS`]. If there are fewer windows, all are checked. Each spot check costs
    /// a copy of 512 KiB.
    ///
    /// Spot checks find a kernel, a compiler or a driver that computes wrongly. Not defended: an
    /// attacker who controls the GPU.
    ///
    /// Suppose the kernel gets `k` of `n` windows wrong, and still returns the sealed digest. Then
    /// `s` spot checks miss all of them with a probability of at most `(1 - k/n)^s`. With 16, a
    /// kernel that gets a quarter of the windows wrong is missed once in a hundred times. A kernel
    /// that gets a single window of an 80 GB shard wrong is nearly always missed.
    pub fn spot_checks(mut self, windows: usize) -> Self {
        self.spot_checks = windows;
        self
    }

    /// Injects faults into the GPU on demand.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_with_faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Opens the GPU.
    ///
    /// Finds the driver and the GPU, loads the kernel, and has it hash data with known digests.
    /// Then tests whether memory can be made read-only. Takes 16 MiB of the GPU, whatever the size
    /// of shards. Also takes pinned memory: 1 MiB for each core (at least two, at most 16), and 1
    /// MiB more.
    ///
    /// # Errors
    ///
    /// Each variant of [`CudaError`] is a reason why the GPU is not usable, and its message has the
    /// remedy. [`CudaError::KnownAnswer`] means that the GPU computes wrong digests: do not use it.
    pub fn open(self) -> Result<Cuda, CudaError> {
        process::check()?;
        process::watch_for_forks().map_err(|error| DeviceError::Os {
            operation: "watching for forks",
            code: error.raw_os_error().unwrap_or_default(),
        })?;
        let driver = Driver::load(self.ordinal)?;
        let gpu = self.find(driver)?;
        let refused = refusal(gpu.is_integrated, Path::new(WSL).exists());
        let context = Arc::new(Context::open(driver, self.ordinal, gpu.device)?);
        // A refused GPU gets no manager. It is opened just far enough to report and record the
        // refusal.
        let allocator = match refused {
            None => self.try_protection(&context, gpu.device)?,
            Some(_) => Allocator {
                device: gpu.device,
                granularity: None,
                can_protect: false,
                protection: self.protection,
            },
        };
        let mut cuda = Cuda {
            staging: Staging::new(&context)?,
            hasher: Hasher::new(&context, gpu.device, gpu.multiprocessors, self.share)?,
            name: format!("cuda:{}", self.ordinal).into(),
            identity: gpu.identity.as_str().into(),
            residency: Residency {
                proven: proven(allocator.can_protect).into(),
                unproven: "that the driver and the GPU's firmware keep allocations where they say"
                    .into(),
                refused: refused.map(Into::into),
            },
            allocator,
            spot_checks: self.spot_checks,
            #[cfg(feature = "fault-injection")]
            faults: self.faults,
            context,
        };
        if cuda.residency.refused.is_none() {
            match check_known_answers(&cuda) {
                Err(CudaError::Device {
                    source: DeviceError::NotResident { cause },
                }) => cuda.residency.refused = Some(cause),
                outcome => outcome?,
            }
        }
        Ok(cuda)
    }

    fn find(&self, driver: &Driver) -> Result<Gpu, CudaError> {
        const MULTIPROCESSORS: u32 = 16;
        const INTEGRATED: u32 = 18;
        const ECC: u32 = 32;
        const MAJOR: u32 = 75;
        const MINOR: u32 = 76;
        let failed = CudaError::driver(Some(driver), self.ordinal);
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
        let uuid = driver.device_uuid(device).map_err(&failed)?;
        let instance = driver.instance_uuid(device).map_err(&failed)?;
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
                "{} {name}, compute capability {major}.{minor}, ECC {ecc}, driver{} for CUDA {}",
                uuids(uuid, instance),
                kernel_module(),
                driver.version(),
            ),
        })
    }

    /// Tests whether memory can be mapped and made read-only.
    fn try_protection(&self, context: &Context, device: i32) -> Result<Allocator, CudaError> {
        const VIRTUAL_MEMORY: u32 = 102;
        let driver = context.driver();
        let has = driver
            .device_attribute(VIRTUAL_MEMORY, device)
            .map_err(CudaError::driver(Some(driver), self.ordinal))?;
        let (granularity, can_protect) = context.within("try protection", |driver| {
            if has == 0 {
                return Ok((None, false));
            }
            let granularity = driver.granularity(&Properties::pinned_on(device))?;
            let can_protect = memory::can_protect(driver, device, granularity)?;
            Ok((Some(granularity), can_protect))
        })?;
        if self.protection == Protection::Required && !can_protect {
            return Err(CudaError::NotProtected);
        }
        Ok(Allocator {
            device,
            granularity,
            can_protect,
            protection: self.protection,
        })
    }
}

/// The driver's facts about a GPU.
struct Gpu {
    device: i32,
    multiprocessors: u32,
    is_integrated: bool,
    identity: String,
}

/// Returns the UUID of a GPU, or of a partition (MIG) and of its GPU.
fn uuids(gpu: [u8; 16], instance: Option<[u8; 16]>) -> String {
    let gpu = with_dashes("GPU", gpu);
    match instance {
        None => gpu,
        Some(instance) => format!("{} of {gpu}", with_dashes("MIG", instance)),
    }
}

/// Returns the version of the driver's kernel module after a space, or nothing if it is unknown.
fn kernel_module() -> String {
    let told = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    version_of_module(&told).map_or_else(String::new, |version| format!(" {version}"))
}

/// Returns the version after the words "Kernel Module", for example `550.54.15`.
fn version_of_module(told: &str) -> Option<&str> {
    let (_, behind) = told.lines().next()?.split_once("Kernel Module")?;
    behind.split_whitespace().find(|word| {
        word.contains('.') && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'))
    })
}

/// Formats a UUID as `nvidia-smi` prints it.
fn with_dashes(kind: &str, uuid: [u8; 16]) -> String {
    let hex = hex::encode(uuid);
    let mut text = String::from(kind);
    let mut left = hex.as_str();
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

/// Returns the reason if memory cannot be shown to lie in the GPU.
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

/// Hashes data with known digests: the test vectors of fsverity-utils, from one block to three
/// levels.
fn check_known_answers(gpu: &Cuda) -> Result<(), CudaError> {
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
    let mut memory = gpu.allocate(data.len() as u64, Permit::mint())?;
    gpu.write(&mut memory, 0, &data)?;
    gpu.synchronize(&memory)?;
    let parts = ANSWERS.map(|(len, _)| Bytes {
        address: memory.address(),
        len,
    });
    let roots = gpu.hasher.roots(&parts)?;
    for ((len, answer), root) in ANSWERS.into_iter().zip(roots) {
        let actual = Tree::digest_of(len, &root);
        if actual.to_string() != answer {
            return Err(CudaError::KnownAnswer { len, actual });
        }
    }
    gpu.wipe(&mut memory)?;
    Ok(gpu.free(&mut memory)?)
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

    /// The texts of a closed and of an open module.
    #[test]
    fn the_version_of_the_kernels_module_is_found_where_there_is_one() {
        for (told, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  12.3.0\n",
                Some("550.54.15"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (dvs-builder@U22)\n",
                Some("570.86.10"),
            ),
            ("GCC version:  12.3.0\n", None),
            ("", None),
        ] {
            assert_eq!(version_of_module(told), version);
        }
    }

    #[test]
    fn a_uuid_looks_as_the_operator_knows_it() {
        let gpu = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        let alone = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(uuids(gpu, None), alone);
        assert_eq!(
            uuids(gpu, Some([0xa5; 16])),
            format!("MIG-a5a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5 of {alone}")
        );
    }
}
