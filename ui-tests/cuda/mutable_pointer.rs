//! Getting an address to write to out of a view into a GPU must not compile: E0599.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::{CudaStream, DevicePtrMut as _};
use vram_residency::shard::Verified;

fn address(shard: Shard<Verified, Cuda>, stream: std::sync::Arc<CudaStream>) {
    let (_address, _written) = shard.view().device_ptr_mut(&stream);
}

fn main() {}
