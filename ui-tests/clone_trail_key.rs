//! Cloning the trail's key must not compile: E0308.

use vram_residency::TrailKey;

fn double(secret: &TrailKey) -> TrailKey {
    secret.clone()
}

fn main() {}
