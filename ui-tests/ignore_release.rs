//! Ignoring what came of releasing must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn shrug(shard: Shard<Quarantined, Host>) {
    shard.release();
}

fn main() {}
