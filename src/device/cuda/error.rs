//! Why a GPU was not opened, with what to do about it.

use vram_digest::Digest;
use vram_trail::process::Forked;

use super::code;
use super::driver::{Driver, Failed};
use crate::device::DeviceError;

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
    /// The driver cannot compile the kernel.
    #[error(
        "CUDA's driver cannot compile the kernel: {cause}: install the driver with libnvidia-ptxjitcompiler, and do not set CUDA_DISABLE_PTX_JIT"
    )]
    #[non_exhaustive]
    NotCompiled {
        /// The call, and its code.
        cause: String,
    },
    /// The GPU cannot make memory read-only.
    #[error(
        "the GPU or its driver cannot make memory read-only: update the driver, or ask for `Protection::WhereAvailable`"
    )]
    NotProtected,
    /// The library that was found is there to link programs with, and not a driver.
    #[error(
        "the libcuda.so that was found is a stub to link programs with: take its folder (`stubs`) out of LD_LIBRARY_PATH"
    )]
    Stub,
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
    /// That of a call on the way to the GPU with this number.
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
