//! Ignoring what came of sharing must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn shrug(shard: Shard<Verified, Host>) {
    shard.share();
}

fn main() {}
