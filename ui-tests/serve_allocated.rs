//! Serving a shard that is allocated must not compile: E0599.

use vram_residency::shard::Allocated;
use vram_residency::{Host, Shard};

fn serve(shard: Shard<Allocated, Host>) {
    let _bytes = shard.view();
}

fn main() {}
