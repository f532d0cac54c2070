//! Reading the bytes of the worker's token must not compile: E0616.

use vram_residency::WorkerToken;

fn leak(secret: &WorkerToken) {
    let _leaked = &secret.secret;
}

fn main() {}
