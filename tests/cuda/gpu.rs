//! What the tests of this directory share: a worker on the simulated GPU, and what another user of the
//! same GPU can do.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, sys::CUdeviceptr,
};
use cudarc::nvrtc::Ptx;
use simulated_cuda::Driver;
use vram_residency::device::{Cuda, CudaBuilder, CudaView};

use crate::shards::Worker;

/// A driver that was loaded before the test's device is opened has counted that.
pub fn worker(options: impl FnOnce(CudaBuilder) -> CudaBuilder) -> Worker {
    let gpu = options(Cuda::builder(0)).open().unwrap();
    Worker::on(gpu, |builder| builder)
}

pub fn address(view: CudaView<'_>) -> CUdeviceptr {
    let stream = user();
    let (address, _sync) = view.device_ptr(&stream);
    address
}

/// A stream of whoever uses the GPU besides.
pub fn user() -> Arc<CudaStream> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: each stream is used by one thread and waited for.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

/// Adds one to the word at an address.
const INCREMENT: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry increment(.param .u64 increment_param_0)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [increment_param_0];
    ld.global.u32 %r1, [%rd1];
    add.s32 %r2, %r1, 1;
    st.global.u32 [%rd1], %r2;
    ret;
}";

/// A kernel that writes where it must not. Whether it was refused tells the next wait.
pub fn increment(stream: &Arc<CudaStream>, address: CUdeviceptr) {
    let module = stream
        .context()
        .load_module(Ptx::from_src(INCREMENT))
        .unwrap();
    let kernel = module.load_function("increment").unwrap();
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&address);
    // SAFETY: the argument is the kernel's; that the address may not be written to is what is tried.
    unsafe { launch.launch(one) }.unwrap();
}

/// Nothing that was taken from the driver is left.
#[track_caller]
pub fn nothing_is_left(driver: Driver) {
    let left = driver.counters();
    assert_eq!(
        (
            left.allocations,
            left.mappings,
            left.handles,
            left.pinned_bytes
        ),
        (0, 0, 0, 0),
        "memory"
    );
    assert_eq!(
        (left.streams, left.events, left.modules, left.contexts),
        (0, 0, 0, 0),
        "streams, events, modules, contexts"
    );
}
