//! Counting the bytes of the tree of a verified shard without the feature must not compile: E0599.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn count(shard: &Shard<Verified, Host>) -> usize {
    shard.dangerous_tree_bytes()
}

fn main() {}
