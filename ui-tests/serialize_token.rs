//! Serializing the worker's token must not compile: E0599.

use serde::Serialize;
use vram_residency::WorkerToken;

fn leak(secret: WorkerToken) {
    let _leaked = secret.serialize(serde_json::value::Serializer);
}

fn main() {}
