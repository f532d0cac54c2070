//! Making a view into a GPU by literal must not compile: E0451.

use vram_residency::device::CudaView;
use vram_residency::device::cudarc::driver::CudaSlice;

fn forge(slice: &CudaSlice<u8>) -> CudaView<'_> {
    CudaView { slice }
}

fn main() {}
