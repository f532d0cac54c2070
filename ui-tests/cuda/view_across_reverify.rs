//! Keeping a view into a GPU while the shard is verified again must not compile: E0505.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::DeviceSlice as _;
use vram_residency::shard::Verified;

fn peek(shard: Shard<Verified, Cuda>) -> usize {
    let view = shard.view();
    let _shard = shard.reverify();
    view.len()
}

fn main() {}
