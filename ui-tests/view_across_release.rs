//! Keeping a view of a shard that is released must not compile: E0505.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn dangle(shard: Shard<Verified, Host>) -> usize {
    let bytes = shard.view();
    let _released = shard.release();
    bytes.len()
}

fn main() {}
