//! Making a view into a GPU by literal must not compile: E0451.

use vram_residency::device::CudaView;

fn forge(other: CudaView<'_>) -> CudaView<'_> {
    CudaView { ..other }
}

fn main() {}
