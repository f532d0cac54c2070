//! Setting a sealed shard in a GPU to zeros must not compile: E0277.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::CudaStream;
use vram_residency::shard::Verified;

fn zero(shard: Shard<Verified, Cuda>, stream: std::sync::Arc<CudaStream>) {
    let mut view = shard.view();
    let _set = stream.memset_zeros(&mut view);
}

fn main() {}
