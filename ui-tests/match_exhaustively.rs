//! Matching an error without a wildcard must not compile: E0004.

use vram_residency::Host;
use vram_residency::error::VerifyError;

fn decide(error: VerifyError<Host>) {
    match error {
        VerifyError::Broken { .. } => {}
        VerifyError::Forked { .. } => {}
        VerifyError::Inconclusive { .. } => {}
        VerifyError::NoSuchWindow { .. } => {}
        VerifyError::Unrecorded { .. } => {}
    }
}

fn main() {}
