//! Keeping a view while the shard is verified again must not compile: E0505.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn peek(shard: Shard<Verified, Host>) -> usize {
    let bytes = shard.view();
    let _shard = shard.reverify();
    bytes.len()
}

fn main() {}
