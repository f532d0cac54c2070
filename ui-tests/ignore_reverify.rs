//! Ignoring what came of verifying again must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn shrug(shard: Shard<Verified, Host>) {
    shard.reverify();
}

fn main() {}
