//! Writing into a sealed shard must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn patch(mut shard: Shard<Sealed, Host>) {
    let _written = shard.write_at(0, b"patched");
}

fn main() {}
