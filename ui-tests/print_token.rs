//! Printing the worker's token must not compile: E0599.

use vram_residency::WorkerToken;

fn leak(secret: &WorkerToken) -> String {
    secret.to_string()
}

fn main() {}
