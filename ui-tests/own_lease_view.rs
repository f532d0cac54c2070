//! Getting ownership of the bytes out of a lease must not compile: E0308.

use vram_residency::{Host, Lease};

fn take(lease: Lease<Host>) -> Box<[u8]> {
    lease.view()
}

fn main() {}
