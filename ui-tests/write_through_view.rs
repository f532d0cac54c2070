//! Writing through a view must not compile: E0594.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn patch(shard: Shard<Verified, Host>) {
    shard.view()[0] = 0;
}

fn main() {}
