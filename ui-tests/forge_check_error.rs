//! Making the error of a failed check by literal must not compile: E0639.

use vram_residency::audit::Incident;
use vram_residency::error::CheckError;

fn forge(incident: Box<Incident>) -> CheckError {
    CheckError::Broken { incident }
}

fn main() {}
