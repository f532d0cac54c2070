//! Making a batch of shards that were not allocated together must not compile: E0451.

use vram_residency::shard::{Allocated, Batch};
use vram_residency::{Host, Shard};

fn forge(shards: Vec<Shard<Allocated, Host>>) -> Batch<Host> {
    Batch { shards }
}

fn main() {}
