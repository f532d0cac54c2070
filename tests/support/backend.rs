//! The device of the topics, where that is a GPU. Which driver there is says `load_driver` of the test.

use cudarc::driver::{CudaContext, DeviceSlice};
use vram_residency::device::{CudaView, Faults};
use vram_residency::{AuditTrail, VramManager, WorkerToken};

pub use vram_residency::device::Cuda as Device;

/// As records name it.
pub const NAME: &str = "cuda:0";

/// The records of a new trail with one manager.
pub const RECORDS_AT_OPENING: usize = 2;

/// Whether memory that was not wiped is given back: whoever gets a GPU's next would find what it held.
pub const FREES_UNWIPED: bool = false;

/// How many windows there are in what is hashed a thousand times: a simulated GPU takes its time.
pub const WINDOWS: usize = 1;

/// What is taken from the device for so many bytes.
pub fn allocated_bytes(len: usize) -> usize {
    len.next_multiple_of(2 << 20)
}

pub fn device() -> Device {
    crate::load_driver();
    Device::builder(0).open().unwrap()
}

pub fn device_with(faults: Faults) -> Device {
    crate::load_driver();
    Device::builder(0)
        .dangerous_with_faults(faults)
        .open()
        .unwrap()
}

pub fn device_without_spot_checks() -> Device {
    crate::load_driver();
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
