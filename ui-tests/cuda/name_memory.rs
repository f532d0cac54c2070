//! Naming the memory of a GPU past its shard must not compile: E0603.

use vram_residency::device::cuda::memory::CudaMemory;

fn main() {}
