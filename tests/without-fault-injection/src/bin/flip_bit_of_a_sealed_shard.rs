//! Flipping a bit of a sealed shard without the feature must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn damage(shard: &Shard<Sealed, Host>) {
    let _flipped = shard.dangerous_flip_bit(0, 0);
}

fn main() {}
