//! Keeping a view into a GPU longer than its lease must not compile: E0515.

use vram_residency::Lease;
use vram_residency::device::{Cuda, CudaView};

fn keep(lease: Lease<Cuda>) -> CudaView<'static> {
    lease.view()
}

fn main() {}
