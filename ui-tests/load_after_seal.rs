//! Loading into a sealed shard must not compile: E0599.

use vram_residency::Stream;
use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn patch(mut shard: Shard<Sealed, Host>) {
    let _loaded = shard.load_from(&b"patched"[..], Stream::TreeOnly);
}

fn main() {}
