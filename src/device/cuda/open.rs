//! Opening a GPU: what it is, what it can do, and whether it computes rightly.

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

/// How many windows are copied back and hashed by the CPU after each digest, unless configured.
pub const DEFAULT_SPOT_CHECKS: usize = 16;

/// The oldest compute capability, that of Turing.
const MIN_CAPABILITY: (i32, i32) = (7, 5);

/// What there is where Windows runs below Linux.
const WSL: &str = "/dev/dxg";

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
    /// next check finds. Without virtual memory an address may be used again after its shard is gone, too.
    /// `VramSealed` says `read_only: false`.
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

    /// Whether sealed memory must be read-only; without this, [`Protection::Required`].
    pub fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// How much of the GPU checks may use at a time; without this, [`Share::ALL`]. They ask for the lowest
    /// priority in any case. That is also the priority of an ordinary stream (0, the best being -5 on
    /// today's GPUs): a model whose kernels are to go first needs streams of a higher, negative priority,
    /// as of `CudaContext::new_stream_with_priority`.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// How many windows, chosen at random, are copied back and hashed by the CPU after each digest of a
    /// shard or of some of its windows; without this, [`DEFAULT_SPOT_CHECKS`]. All of them, if there are no
    /// more.
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
    /// shards, and pinned memory: 1 MiB for each core (at least two, at most 16), and 1 MiB more.
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
        // A GPU that gets no manager is opened so far that this can be said, and recorded.
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

    /// Whether memory can be mapped, and made read-only.
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

/// What was found out about a GPU.
struct Gpu {
    device: i32,
    multiprocessors: u32,
    is_integrated: bool,
    identity: String,
}

/// The UUID of a GPU, or those of a part of one (MIG) and of the whole.
fn uuids(gpu: [u8; 16], instance: Option<[u8; 16]>) -> String {
    let gpu = with_dashes("GPU", gpu);
    match instance {
        None => gpu,
        Some(instance) => format!("{} of {gpu}", with_dashes("MIG", instance)),
    }
}

/// The version of the driver's part in the kernel, behind a space, where it tells.
fn kernel_module() -> String {
    let told = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    version_of_module(&told).map_or_else(String::new, |version| format!(" {version}"))
}

/// The version behind the words "Kernel Module", as in `550.54.15`.
fn version_of_module(told: &str) -> Option<&str> {
    let (_, behind) = told.lines().next()?.split_once("Kernel Module")?;
    behind.split_whitespace().find(|word| {
        word.contains('.') && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'))
    })
}

/// A UUID as `nvidia-smi` prints it.
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

/// Hashes data whose digests are known. They are the test vectors of fsverity-utils, from one block
/// to three levels.
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

    /// Of a closed and of an open module.
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
