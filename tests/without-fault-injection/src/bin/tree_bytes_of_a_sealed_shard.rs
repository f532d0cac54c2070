//! Counting the bytes of the tree of a sealed shard without the feature must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn count(shard: &Shard<Sealed, Host>) -> usize {
    shard.dangerous_tree_bytes()
}

fn main() {}
