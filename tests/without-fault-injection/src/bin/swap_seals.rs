//! Exchanging seals without the feature must not compile: E0432.

use vram_residency::shard::dangerous_swap_seals;

fn main() {}
