//! Making what leases come from by literal must not compile: E0451.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shared};

fn forge(sealed: Sealed, another: Shared<Host>) -> Shared<Host> {
    Shared { sealed, ..another }
}

fn main() {}
