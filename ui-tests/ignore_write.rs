//! Ignoring what came of writing must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Allocated;
use vram_residency::{Host, Shard};

fn shrug(shard: &mut Shard<Allocated, Host>) {
    shard.write_at(0, b"weights");
}

fn main() {}
