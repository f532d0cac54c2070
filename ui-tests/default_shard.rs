//! Making a verified shard by `Default` must not compile: E0599.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn forge() -> Shard<Verified, Host> {
    Shard::<Verified, Host>::default()
}

fn main() {}
