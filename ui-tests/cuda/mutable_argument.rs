//! Giving a kernel a view into a GPU as an argument that it writes to must not compile: E0277.

use std::sync::Arc;

use vram_residency::Lease;
use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::{CudaFunction, CudaStream, PushKernelArg as _};

fn launch(lease: &Lease<Cuda>, stream: &Arc<CudaStream>, kernel: &CudaFunction) {
    let mut view = lease.view().as_cudarc();
    stream.launch_builder(kernel).arg(&mut view);
}

fn main() {}
