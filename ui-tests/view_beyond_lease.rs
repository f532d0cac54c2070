//! Keeping a view longer than its lease must not compile: E0505.

use vram_residency::{Host, Lease};

fn dangle(lease: Lease<Host>) -> usize {
    let bytes = lease.view();
    drop(lease);
    bytes.len()
}

fn main() {}
