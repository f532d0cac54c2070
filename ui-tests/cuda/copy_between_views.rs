//! Copying inside a GPU into a sealed shard must not compile: E0277.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::{CudaSlice, CudaStream};
use vram_residency::shard::Verified;

fn overwrite(
    shard: Shard<Verified, Cuda>,
    stream: std::sync::Arc<CudaStream>,
    other: &CudaSlice<u8>,
) {
    let mut view = shard.view();
    let _copied = stream.memcpy_dtod(other, &mut view);
}

fn main() {}
