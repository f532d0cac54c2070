//! Leasing from what was reclaimed must not compile: E0382.

use vram_residency::{Host, Shared};

fn lease_late(shared: Shared<Host>) {
    let _shard = shared.reclaim();
    let _lease = shared.lease();
}

fn main() {}
