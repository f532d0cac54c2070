//! Keeping a view that no lease stands for across `share` must not compile: E0505.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn smuggle(shard: Shard<Verified, Host>) -> usize {
    let bytes = shard.view();
    let _shared = shard.share();
    bytes.len()
}

fn main() {}
