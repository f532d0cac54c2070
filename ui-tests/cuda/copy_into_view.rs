//! Copying from the host into a sealed shard in a GPU must not compile: E0277.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::CudaStream;
use vram_residency::shard::Verified;

fn overwrite(shard: Shard<Verified, Cuda>, stream: std::sync::Arc<CudaStream>, bytes: &[u8]) {
    let mut view = shard.view();
    let _copied = stream.memcpy_htod(bytes, &mut view);
}

fn main() {}
