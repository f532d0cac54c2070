//! Serving a shard that is sealed must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn serve(shard: Shard<Sealed, Host>) {
    let _bytes = shard.view();
}

fn main() {}
