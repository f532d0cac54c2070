//! Printing the trail's key must not compile: E0599.

use vram_residency::TrailKey;

fn leak(secret: &TrailKey) -> String {
    secret.to_string()
}

fn main() {}
