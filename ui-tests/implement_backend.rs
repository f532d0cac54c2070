//! Naming the trait that seals the devices must not compile: E0603.

use vram_residency::device::backend::Backend;

fn main() {}
