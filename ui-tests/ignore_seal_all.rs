//! Ignoring what came of sealing a batch must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::shard::Batch;
use vram_residency::{Host, Provenance};

fn shrug(batch: Batch<Host>) {
    batch.seal(|_| Provenance::UnpinnedFirstUse);
}

fn main() {}
