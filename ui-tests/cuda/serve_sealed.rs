//! Serving a sealed shard in a GPU must not compile: E0599.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Sealed;

fn serve(shard: Shard<Sealed, Cuda>) {
    let _view = shard.view();
}

fn main() {}
