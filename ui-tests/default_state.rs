//! Making a state by `Default` must not compile: E0599.

use vram_residency::shard::Verified;

fn forge() -> Verified {
    Verified::default()
}

fn main() {}
