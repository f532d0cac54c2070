//! Naming a seal, to make one by literal, must not compile: E0603.

use vram_residency::seal::Seal;

fn main() {}
