//! Naming the proof of a comparison, to make one by literal, must not compile: E0603.

use vram_residency::seal::Match;

fn main() {}
