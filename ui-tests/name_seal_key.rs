//! Naming the key of the seals must not compile: E0603.

use vram_residency::seal::SealKey;

fn main() {}
