//! Cloning what leases come from must not compile: E0308.

use vram_residency::{Host, Shared};

fn double(shared: &Shared<Host>) -> Shared<Host> {
    shared.clone()
}

fn main() {}
