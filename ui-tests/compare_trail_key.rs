//! Comparing the trail's key must not compile: E0369.

use vram_residency::TrailKey;

fn guess(secret: &TrailKey, other: &TrailKey) -> bool {
    secret == other
}

fn main() {}
