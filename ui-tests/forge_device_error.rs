//! Making a device's failure by literal must not compile: E0639.

use vram_residency::device::DeviceError;

fn forge() -> DeviceError {
    DeviceError::Broken {
        operation: "digest",
        cause: "an uncorrectable error".into(),
    }
}

fn main() {}
