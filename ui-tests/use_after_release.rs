//! Using a released shard must not compile: E0382.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn read_freed(shard: Shard<Verified, Host>) {
    let _released = shard.release();
    let _bytes = shard.view();
}

fn main() {}
