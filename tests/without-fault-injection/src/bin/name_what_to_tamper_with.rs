//! Naming what of a seal can be changed without the feature must not compile: E0432.

use vram_residency::seal::Tamper;

fn main() {}
