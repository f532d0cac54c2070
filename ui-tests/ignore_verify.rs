//! Ignoring what came of verifying must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn shrug(shard: Shard<Sealed, Host>) {
    shard.verify();
}

fn main() {}
