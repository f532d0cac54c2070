//! Taking the memory that a view into a GPU reads, for cudarc to free, must not compile: E0308.

use vram_residency::Lease;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::CudaSlice;

fn take(lease: &Lease<Cuda>) -> CudaSlice<u8> {
    lease.view().as_cudarc()
}

fn main() {}
