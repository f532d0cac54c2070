//! Handing a sealed shard in a GPU to code that reads verified ones must not compile: E0308.

use vram_residency::Shard;
use vram_residency::device::{Cuda, CudaView};
use vram_residency::shard::{Sealed, Verified};

fn serve(shard: &Shard<Verified, Cuda>) -> CudaView<'_> {
    shard.view()
}

fn hurry(sealed: &Shard<Sealed, Cuda>) -> CudaView<'_> {
    serve(sealed)
}

fn main() {}
