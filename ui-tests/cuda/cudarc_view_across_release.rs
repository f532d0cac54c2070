//! Keeping what is lent to cudarc after the shard is gone must not compile: E0505.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Verified;

fn peek(shard: Shard<Verified, Cuda>) -> usize {
    let view = shard.view().as_cudarc();
    let _released = shard.release();
    view.len()
}

fn main() {}
