//! Getting hold of what opens a verification, and so of the audit guard, must not compile: E0616.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn reach(shard: Shard<Sealed, Host>) {
    let _core = shard.core;
}

fn main() {}
