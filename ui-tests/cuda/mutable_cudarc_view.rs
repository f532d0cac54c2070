//! Getting a mutable view out of the one that is lent to cudarc must not compile: E0599.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Verified;

fn mutable(shard: Shard<Verified, Cuda>) {
    let _view = shard.view().as_cudarc().as_view_mut();
}

fn main() {}
