//! The right way: a view is read wherever cudarc reads, and a lease lives in the model.

use std::sync::Arc;

use vram_residency::device::Cuda;
use vram_residency::device::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DeviceSlice as _, DriverError, LaunchConfig, PushKernelArg,
};
use vram_residency::shard::Verified;
use vram_residency::{Lease, Shard};

struct Layer {
    weights: Lease<Cuda>,
}

impl Layer {
    fn run(&self, stream: &Arc<CudaStream>, kernel: &CudaFunction) -> Result<(), DriverError> {
        let view = self.weights.view();
        let lent = view.as_cudarc();
        let mut launch = stream.launch_builder(kernel);
        launch.arg(&lent);
        // SAFETY: the kernel takes an address that it reads from.
        unsafe { launch.launch(LaunchConfig::for_num_elems(view.len() as u32)) }.map(drop)
    }
}

fn copies(
    shard: &Shard<Verified, Cuda>,
    stream: &Arc<CudaStream>,
    there: &mut CudaSlice<u8>,
    here: &mut [u8],
) -> Result<(), DriverError> {
    stream.memcpy_dtod(&shard.view(), there)?;
    stream.memcpy_dtoh(&shard.view(), here)
}

fn is_static<T: Send + Sync + 'static>() {}

fn main() {
    is_static::<Layer>();
    is_static::<Shard<Verified, Cuda>>();
    let _ = (Layer::run, copies);
}
