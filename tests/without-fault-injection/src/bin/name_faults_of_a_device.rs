//! Naming the faults of a device without the feature must not compile: E0432.

use vram_residency::device::Faults;

fn main() {}
