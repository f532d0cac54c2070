//! Keeping a view of a shard that is dropped must not compile: E0505.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn dangle(shard: Shard<Verified, Host>) -> usize {
    let bytes = shard.view();
    drop(shard);
    bytes.len()
}

fn main() {}
