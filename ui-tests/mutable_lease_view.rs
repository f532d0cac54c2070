//! Getting a lease's view that can be written must not compile: E0308.

use vram_residency::{Host, Lease};

fn patch(lease: &mut Lease<Host>) -> &mut [u8] {
    lease.view()
}

fn main() {}
