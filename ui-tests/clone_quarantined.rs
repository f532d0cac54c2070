//! Cloning a shard that is quarantined must not compile: E0308.

use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn double(shard: &Shard<Quarantined, Host>) -> Shard<Quarantined, Host> {
    shard.clone()
}

fn main() {}
