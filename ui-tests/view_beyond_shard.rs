//! Keeping a view longer than its shard must not compile: E0515.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn smuggle(shard: Shard<Verified, Host>) -> &'static [u8] {
    shard.view()
}

fn main() {}
