//! Cloning a shard that is sealed must not compile: E0308.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn double(shard: &Shard<Sealed, Host>) -> Shard<Sealed, Host> {
    shard.clone()
}

fn main() {}
