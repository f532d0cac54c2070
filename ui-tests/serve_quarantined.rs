//! Serving a shard that is quarantined must not compile: E0599.

use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn serve(shard: Shard<Quarantined, Host>) {
    let _bytes = shard.view();
}

fn main() {}
