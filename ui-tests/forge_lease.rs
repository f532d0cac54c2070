//! Making a lease by literal must not compile: E0423.

use vram_residency::{Host, Lease};

fn forge<T>(memory: T) -> Lease<Host> {
    Lease(memory)
}

fn main() {}
