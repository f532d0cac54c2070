//! Holding a verification open without the feature must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn hold(shard: &Shard<Sealed, Host>) {
    let _open = shard.dangerous_open_verification();
}

fn main() {}
