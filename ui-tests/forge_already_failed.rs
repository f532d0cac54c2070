//! Making the refusal of a shard that failed by literal must not compile: E0603.

use vram_residency::error::CheckError;

fn forge() -> CheckError {
    CheckError::AlreadyFailed
}

fn main() {}
