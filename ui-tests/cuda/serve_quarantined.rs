//! Serving a shard in a GPU that is quarantined must not compile: E0599.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Quarantined;

fn serve(shard: Shard<Quarantined, Cuda>) {
    let _view = shard.view();
}

fn main() {}
