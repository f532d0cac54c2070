//! Keeping a view into a GPU that no lease stands for across `share` must not compile: E0505.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::DeviceSlice as _;
use vram_residency::shard::Verified;

fn smuggle(shard: Shard<Verified, Cuda>) -> usize {
    let view = shard.view();
    let _shared = shard.share();
    view.len()
}

fn main() {}
