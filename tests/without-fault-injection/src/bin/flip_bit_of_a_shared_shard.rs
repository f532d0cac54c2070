//! Flipping a bit of a shared shard without the feature must not compile: E0599.

use vram_residency::{Host, Shared};

fn damage(shared: &Shared<Host>) {
    let _flipped = shared.dangerous_flip_bit(0, 0);
}

fn main() {}
