//! Reading the bytes of the trail's key must not compile: E0616.

use vram_residency::TrailKey;

fn leak(secret: &TrailKey) {
    let _leaked = &secret.kind;
}

fn main() {}
