//! Allocating on a device past its manager must not compile: E0603.

use vram_residency::device::Device;

fn allocate<D: Device>(device: &D) {
    let _memory = device.allocate(4096, vram_residency::device::backend::Permit(()));
}

fn main() {}
