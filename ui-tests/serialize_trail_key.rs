//! Serializing the trail's key must not compile: E0599.

use serde::Serialize;
use vram_residency::TrailKey;

fn leak(secret: TrailKey) {
    let _leaked = secret.serialize(serde_json::value::Serializer);
}

fn main() {}
