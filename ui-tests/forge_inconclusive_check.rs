//! Making the error of a check without an answer by literal must not compile: E0639.

use vram_residency::error::{CheckError, NoAnswer};

fn forge(source: NoAnswer) -> CheckError {
    CheckError::Inconclusive { source }
}

fn main() {}
