//! Sealing what a failed shard holds must not compile: E0599.

use vram_residency::shard::Quarantined;
use vram_residency::{Host, Provenance, Shard};

fn bless(shard: Shard<Quarantined, Host>) {
    let _sealed = shard.seal(Provenance::UnpinnedFirstUse);
}

fn main() {}
