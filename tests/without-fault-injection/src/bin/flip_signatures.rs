//! Letting a key sign wrongly without the feature must not compile: E0599.

use vram_residency::TrailKey;

fn damage(key: TrailKey) {
    let _erring = key.dangerous_flip_signatures(0, 1);
}

fn main() {}
