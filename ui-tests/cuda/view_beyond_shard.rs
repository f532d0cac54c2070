//! Keeping a view into a GPU longer than its shard must not compile: E0515.

use vram_residency::Shard;
use vram_residency::device::{Cuda, CudaView};
use vram_residency::shard::Verified;

fn smuggle(shard: Shard<Verified, Cuda>) -> CudaView<'static> {
    shard.view()
}

fn main() {}
