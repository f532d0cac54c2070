//! Handing a sealed shard to code that reads verified ones must not compile: E0308.

use vram_residency::shard::{Sealed, Verified};
use vram_residency::{Host, Shard};

fn serve(shard: &Shard<Verified, Host>) -> usize {
    shard.view().len()
}

fn hurry(sealed: &Shard<Sealed, Host>) -> usize {
    serve(sealed)
}

fn main() {}
