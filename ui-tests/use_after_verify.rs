//! Verifying a shard that went into verification must not compile: E0382.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn verify_twice(shard: Shard<Sealed, Host>) {
    let _first = shard.verify();
    let _second = shard.verify();
}

fn main() {}
