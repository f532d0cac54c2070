//! Sealing without saying what the digest is compared with must not compile: E0061.

use vram_residency::shard::Allocated;
use vram_residency::{Host, Shard};

fn seal(shard: Shard<Allocated, Host>) {
    let _sealed = shard.seal();
}

fn main() {}
