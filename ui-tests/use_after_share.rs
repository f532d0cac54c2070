//! Reading past the leases of a shard that was shared must not compile: E0382.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn both_ways(shard: Shard<Verified, Host>) {
    let _shared = shard.share();
    let _bytes = shard.view();
}

fn main() {}
