//! Adding a device of one's own must not compile: E0277.

use vram_residency::device::Device;

#[derive(Debug)]
struct Pretend;

impl Device for Pretend {
    type View<'a> = &'a [u8];
}

fn main() {}
