//! Cloning the worker's token must not compile: E0308.

use vram_residency::WorkerToken;

fn double(secret: &WorkerToken) -> WorkerToken {
    secret.clone()
}

fn main() {}
