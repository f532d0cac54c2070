//! Writing through a lease must not compile: E0594.

use vram_residency::{Host, Lease};

fn patch(lease: Lease<Host>) {
    lease.view()[0] = 0;
}

fn main() {}
