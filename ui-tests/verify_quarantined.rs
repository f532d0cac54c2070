//! Trying a failed shard again until it passes must not compile: E0599.

use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn try_again(shard: Shard<Quarantined, Host>) {
    let _verified = shard.verify();
}

fn main() {}
