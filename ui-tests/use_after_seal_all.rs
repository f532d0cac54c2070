//! Writing through a batch that went into sealing must not compile: E0382.

use vram_residency::shard::Batch;
use vram_residency::{Host, Provenance};

fn keep_writing(mut batch: Batch<Host>) {
    let _sealed = batch.seal(|_| Provenance::UnpinnedFirstUse);
    for mut member in batch.iter_mut() {
        let _written = member.write_at(0, b"patched");
    }
}

fn main() {}
