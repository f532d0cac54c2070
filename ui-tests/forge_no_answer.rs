//! Making the lack of an answer by literal must not compile: E0639.

use vram_residency::device::DeviceError;
use vram_residency::error::NoAnswer;

fn forge(source: DeviceError) -> NoAnswer {
    NoAnswer::Device { source }
}

fn main() {}
