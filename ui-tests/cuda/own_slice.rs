//! Getting the slice that a view is lent from must not compile: E0616.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Verified;

fn own(shard: Shard<Verified, Cuda>) {
    let _slice = shard.view().slice;
}

fn main() {}
