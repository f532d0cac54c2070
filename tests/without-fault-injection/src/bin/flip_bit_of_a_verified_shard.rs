//! Flipping a bit of a verified shard without the feature must not compile: E0599.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn damage(shard: &Shard<Verified, Host>) {
    let _flipped = shard.dangerous_flip_bit(0, 0);
}

fn main() {}
