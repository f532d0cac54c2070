//! Turning an incident into the error of a failed verification by `From` must not compile: E0308.

use vram_residency::Host;
use vram_residency::audit::Incident;
use vram_residency::error::VerifyError;

fn forge(incident: Incident) -> VerifyError<Host> {
    VerifyError::<Host>::from(incident)
}

fn main() {}
