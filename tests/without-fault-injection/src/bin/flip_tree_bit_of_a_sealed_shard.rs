//! Flipping a bit of the tree of a sealed shard without the feature must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn damage(shard: &mut Shard<Sealed, Host>) {
    shard.dangerous_flip_tree_bit(0, 0);
}

fn main() {}
