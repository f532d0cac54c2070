//! Cloning a GPU that a manager was built for must not compile: E0308.

use vram_residency::VramManager;
use vram_residency::device::Cuda;

fn second(manager: &VramManager<Cuda>) -> Cuda {
    manager.device().clone()
}

fn main() {}
