//! Turning a sealed shard into a verified one by `From` must not compile: E0308.

use vram_residency::shard::{Sealed, Verified};
use vram_residency::{Host, Shard};

fn promote(sealed: Shard<Sealed, Host>) -> Shard<Verified, Host> {
    Shard::<Verified, Host>::from(sealed)
}

fn main() {}
