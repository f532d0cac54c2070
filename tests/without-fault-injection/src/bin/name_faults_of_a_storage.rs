//! Naming the faults of a storage without the feature must not compile: E0432.

use vram_residency::audit::faults::StorageFaults;

fn main() {}
