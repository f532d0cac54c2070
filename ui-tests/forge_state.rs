//! Making a verified state by literal must not compile: E0451.

use vram_residency::shard::{Sealed, Verified};

fn forge(sealed: Sealed, another: Verified) -> Verified {
    Verified { sealed, ..another }
}

fn main() {}
