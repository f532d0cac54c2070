//! Making the error of a failed verification by literal must not compile: E0639.

use vram_residency::audit::Incident;
use vram_residency::error::VerifyError;
use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn forge(incident: Box<Incident>, shard: Box<Shard<Quarantined, Host>>) -> VerifyError<Host> {
    VerifyError::Broken { incident, shard }
}

fn main() {}
