//! Making a device with faults without the feature must not compile: E0599.

use vram_residency::Host;

fn make<T>(faults: T) -> Host {
    Host::dangerous_with_faults(faults)
}

fn main() {}
