//! Every topic of shards, in the memory of a simulated GPU; and what only a GPU can do wrong.
#![cfg(feature = "cuda")]

#[path = "../support/shards.rs"]
mod shards;
#[path = "../support/mod.rs"]
mod support;
#[path = "../topics/mod.rs"]
mod topics;

mod digest;
mod failures;
mod gpu;
mod memory;
mod opening;
mod together;

mod backend {
    use cudarc::driver::{CudaContext, DeviceSlice};
    use simulated_cuda::Driver;
    use vram_residency::device::{CudaView, Faults};
    use vram_residency::{AuditTrail, VramManager, WorkerToken};

    pub use vram_residency::device::Cuda as Device;

    /// As records name it.
    pub const NAME: &str = "cuda:0";

    /// The records of a new trail with one manager.
    pub const RECORDS_AT_OPENING: usize = 2;

    /// How many windows there are in what is hashed a thousand times: a simulated GPU takes its time.
    pub const WINDOWS: usize = 1;

    /// What is taken from the device for so many bytes.
    pub fn allocated_bytes(len: usize) -> usize {
        len.next_multiple_of(2 << 20)
    }

    pub fn device() -> Device {
        Driver::load();
        Device::builder(0).open().unwrap()
    }

    pub fn device_with(faults: Faults) -> Device {
        Driver::load();
        Device::builder(0)
            .dangerous_with_faults(faults)
            .open()
            .unwrap()
    }

    pub fn device_without_spot_checks() -> Device {
        Driver::load();
        Device::builder(0).spot_checks(0).open().unwrap()
    }

    pub fn manager(trail: &AuditTrail) -> VramManager<Device> {
        VramManager::builder(device(), &WorkerToken::generate().unwrap(), trail)
            .build()
            .unwrap()
    }

    /// What a model would read.
    pub fn bytes(view: CudaView<'_>) -> Vec<u8> {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut bytes = vec![0; view.len()];
        stream.memcpy_dtoh(&view, &mut bytes).unwrap();
        stream.synchronize().unwrap();
        context.check_err().unwrap();
        bytes
    }
}
