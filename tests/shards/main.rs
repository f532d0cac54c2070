//! Every topic of shards, on host memory.

#[path = "../support/shards.rs"]
mod shards;
#[path = "../support/mod.rs"]
mod support;
#[path = "../topics/mod.rs"]
mod topics;

mod backend {
    use vram_residency::device::Faults;
    use vram_residency::{AuditTrail, VramManager};

    pub use vram_residency::Host as Device;

    /// As records name it.
    pub const NAME: &str = "host";

    /// The records of a new trail with one manager.
    pub const RECORDS_AT_OPENING: usize = 1;

    /// Whether memory that was not wiped is given back: Linux hands on nothing but zeros.
    pub const FREES_UNWIPED: bool = true;

    /// How many windows there are in what is hashed a thousand times.
    pub const WINDOWS: usize = 2;

    /// What is taken from the device for so many bytes.
    pub fn allocated_bytes(len: usize) -> usize {
        len
    }

    pub fn device() -> Device {
        Device::new()
    }

    pub fn device_with(faults: Faults) -> Device {
        Device::dangerous_with_faults(faults)
    }

    pub fn device_without_spot_checks() -> Device {
        device()
    }

    pub fn manager(trail: &AuditTrail) -> VramManager<Device> {
        crate::support::manager(trail)
    }

    pub fn bytes(view: &[u8]) -> Vec<u8> {
        view.to_vec()
    }
}
