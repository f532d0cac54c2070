//! Verifying a shard that was never sealed must not compile: E0599.

use vram_residency::shard::Allocated;
use vram_residency::{Host, Shard};

fn skip_the_seal(shard: Shard<Allocated, Host>) {
    let _verified = shard.verify();
}

fn main() {}
