//! Ignoring what came of sealing must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Allocated;
use vram_residency::{Host, Provenance, Shard};

fn shrug(shard: Shard<Allocated, Host>) {
    shard.seal(Provenance::UnpinnedFirstUse);
}

fn main() {}
