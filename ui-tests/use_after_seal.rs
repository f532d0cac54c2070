//! Writing through a shard that went into sealing must not compile: E0382.

use vram_residency::shard::Allocated;
use vram_residency::{Host, Provenance, Shard};

fn keep_writing(mut shard: Shard<Allocated, Host>) {
    let _sealed = shard.seal(Provenance::UnpinnedFirstUse);
    let _written = shard.write_at(0, b"patched");
}

fn main() {}
