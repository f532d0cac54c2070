//! Swapping shards of different states must not compile: E0308.

use vram_residency::shard::{Sealed, Verified};
use vram_residency::{Host, Shard};

fn swap(sealed: &mut Shard<Sealed, Host>, verified: &mut Shard<Verified, Host>) {
    std::mem::swap(sealed, verified);
}

fn main() {}
