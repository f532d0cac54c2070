//! Writing into a sealed shard in a GPU must not compile: E0599.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Sealed;

fn patch(mut shard: Shard<Sealed, Cuda>) {
    let _written = shard.write_at(0, b"patched");
}

fn main() {}
