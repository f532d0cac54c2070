//! Making a verified shard by literal must not compile: E0451.

use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn forge(state: Verified, another: Shard<Verified, Host>) -> Shard<Verified, Host> {
    Shard { state, ..another }
}

fn main() {}
