//! Keeping what a lease lends to cudarc longer than the lease must not compile: E0515.

use vram_residency::Lease;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::CudaView;

fn keep(lease: Lease<Cuda>) -> CudaView<'static, u8> {
    lease.view().as_cudarc()
}

fn main() {}
