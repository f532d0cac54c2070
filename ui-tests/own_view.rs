//! Getting ownership of the bytes out of a view must not compile: E0308.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn take(shard: Shard<Verified, Host>) -> Box<[u8]> {
    shard.view()
}

fn main() {}
