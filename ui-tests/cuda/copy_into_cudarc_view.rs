//! Copying into what a lease lends to cudarc must not compile: E0277.

use std::sync::Arc;

use vram_residency::Lease;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::CudaStream;

fn overwrite(lease: &Lease<Cuda>, stream: &Arc<CudaStream>, bytes: &[u8]) {
    let mut view = lease.view().as_cudarc();
    let _copied = stream.memcpy_htod(bytes, &mut view);
}

fn main() {}
