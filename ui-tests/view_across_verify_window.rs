//! Keeping a view while a window is verified must not compile: E0505.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn peek(shard: Shard<Verified, Host>) -> usize {
    let bytes = shard.view();
    let _shard = shard.verify_window(0..1);
    bytes.len()
}

fn main() {}
