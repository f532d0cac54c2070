//! Cloning a shard that is verified must not compile: E0308.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn double(shard: &Shard<Verified, Host>) -> Shard<Verified, Host> {
    shard.clone()
}

fn main() {}
