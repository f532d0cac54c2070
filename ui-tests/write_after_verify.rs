//! Writing into a verified shard must not compile: E0599.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn patch(mut shard: Shard<Verified, Host>) {
    let _written = shard.write_at(0, b"patched");
}

fn main() {}
