//! Sealing one shard of a batch by itself must not compile: E0507.

use vram_residency::shard::Batch;
use vram_residency::{Host, Provenance};

fn seal_the_first(batch: &mut Batch<Host>) {
    let _sealed = batch
        .iter_mut()
        .next()
        .map(|member| member.seal(Provenance::UnpinnedFirstUse));
}

fn main() {}
