//! Cloning a shard that is allocated must not compile: E0308.

use vram_residency::shard::Allocated;
use vram_residency::{Host, Shard};

fn double(shard: &Shard<Allocated, Host>) -> Shard<Allocated, Host> {
    shard.clone()
}

fn main() {}
