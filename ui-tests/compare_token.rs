//! Comparing the worker's token must not compile: E0369.

use vram_residency::WorkerToken;

fn guess(secret: &WorkerToken, other: &WorkerToken) -> bool {
    secret == other
}

fn main() {}
