//! Flipping a bit of the tree of a verified shard without the feature must not compile: E0599.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn damage(shard: &mut Shard<Verified, Host>) {
    shard.dangerous_flip_tree_bit(0, 0);
}

fn main() {}
