//! Changing what a seal covers without the feature must not compile: E0599.

use vram_residency::shard::Sealed;
use vram_residency::{Host, Shard};

fn damage<T>(shard: &mut Shard<Sealed, Host>, tamper: T) {
    shard.dangerous_tamper(tamper);
}

fn main() {}
