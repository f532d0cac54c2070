//! Naming the operations that can be made to fail without the feature must not compile: E0432.

use vram_residency::device::Operation;

fn main() {}
