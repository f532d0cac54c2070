//! The reasons why a GPU was not opened, with the remedies.

use vram_digest::Digest;
use vram_trail::process::Forked;

use super::code;
use super::driver::{Driver, Failed};
use crate::device::DeviceError;

/// Error returned when a GPU was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The device failed during opening.
    #[error("the GPU did not do what opening it needs")]
    #[non_exhaustive]
    Device {
        /// The failure.
        #[from]
        source: DeviceError,
    },
    /// The driver failed.
    #[error("CUDA's driver failed: {cause}: see whether `nvidia-smi` works")]
    #[non_exhaustive]
    Driver {
        /// The call and its code.
        cause: String,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The kernel returned a wrong digest for data with a known digest. Do not use the GPU.
    #[error(
        "the GPU computes wrong digests: of {len} known bytes it says {actual}: do not use it, and have it tested"
    )]
    #[non_exhaustive]
    KnownAnswer {
        /// Bytes hashed.
        len: u64,
        /// The wrong digest.
        actual: Digest,
    },
    /// The driver lacks a function.
    #[error("CUDA's driver lacks {symbol}: it is older than 11.2, or not NVIDIA's: update it")]
    #[non_exhaustive]
    MissingSymbol {
        /// The function.
        symbol: &'static str,
    },
    /// There is no GPU with this number.
    #[error(
        "there is no GPU {ordinal}: the driver sees {count} (numbered from 0; CUDA_VISIBLE_DEVICES limits them)"
    )]
    #[non_exhaustive]
    NoDevice {
        /// The requested number.
        ordinal: u32,
        /// The number of GPUs.
        count: u32,
    },
    /// CUDA's driver was not found.
    #[error(
        "CUDA's driver was not found (libcuda.so.1): install NVIDIA's driver, give the container its GPU (`--gpus`), or use host memory"
    )]
    NoDriver,
    /// The driver cannot compile the kernel.
    #[error(
        "CUDA's driver cannot compile the kernel: {cause}: install the driver with libnvidia-ptxjitcompiler, and do not set CUDA_DISABLE_PTX_JIT"
    )]
    #[non_exhaustive]
    NotCompiled {
        /// The call and its code.
        cause: String,
    },
    /// The GPU or its driver cannot make memory read-only.
    #[error(
        "the GPU or its driver cannot make memory read-only: update the driver, or ask for `Protection::WhereAvailable`"
    )]
    NotProtected,
    /// The library found is a stub for linking, not a driver.
    #[error(
        "the libcuda.so that was found is a stub to link programs with: take its folder (`stubs`) out of LD_LIBRARY_PATH"
    )]
    Stub,
    /// The driver is too old.
    #[error("CUDA's driver supports CUDA {version}, and 11.2 is needed: update it")]
    #[non_exhaustive]
    TooOld {
        /// The supported CUDA version.
        version: String,
    },
    /// The GPU is too old.
    #[error("the GPU has compute capability {major}.{minor}, and 7.5 (Turing) is needed")]
    #[non_exhaustive]
    TooOldGpu {
        /// The major number of its compute capability.
        major: i32,
        /// The minor number of its compute capability.
        minor: i32,
    },
}

impl CudaError {
    /// Returns a conversion from a failed call while opening the GPU with this number.
    pub(super) fn driver(driver: Option<&Driver>, ordinal: u32) -> impl Fn(Failed) -> Self {
        move |failed| match failed.code {
            34 => Self::Stub,
            100 => Self::NoDevice { ordinal, count: 0 },
            _ => Self::Driver {
                cause: code::text(driver, failed),
            },
        }
    }
}
