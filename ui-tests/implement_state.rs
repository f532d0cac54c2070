//! Adding a state of one's own must not compile: E0277.

use vram_residency::shard::State;

#[derive(Debug)]
struct Trusted;

impl State for Trusted {}

fn main() {}
