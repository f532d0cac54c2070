//! Naming the trait that seals the states must not compile: E0603.

use vram_residency::shard::state::private::Facts;

fn main() {}
