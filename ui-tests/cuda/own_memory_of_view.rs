//! Getting the memory that a view is of must not compile: E0616.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Verified;

fn own(shard: Shard<Verified, Cuda>) {
    let _memory = shard.view().memory;
}

fn main() {}
