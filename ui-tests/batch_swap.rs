//! Exchanging a shard of a batch for another must not compile: E0596.

use vram_residency::shard::{Allocated, Batch};
use vram_residency::{Host, Shard};

fn exchange(batch: &mut Batch<Host>, another: &mut Shard<Allocated, Host>) {
    for member in batch.iter_mut() {
        std::mem::swap(&mut *member, another);
    }
}

fn main() {}
