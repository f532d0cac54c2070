//! Sealing a sealed shard must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Provenance, Shard};

fn seal_again(shard: Shard<Sealed, Host>) {
    let _sealed = shard.seal(Provenance::UnpinnedFirstUse);
}

fn main() {}
