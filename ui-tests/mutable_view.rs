//! Getting a view that can be written must not compile: E0308.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn patch(shard: &mut Shard<Verified, Host>) -> &mut [u8] {
    shard.view()
}

fn main() {}
