//! Sharing a shard that is only sealed must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn hurry(shard: Shard<Sealed, Host>) {
    let _shared = shard.share();
}

fn main() {}
