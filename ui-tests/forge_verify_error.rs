//! Making the error of a failed verification by literal must not compile: E0451.

use vram_residency::audit::Incident;
use vram_residency::error::{Broken, VerifyError};
use vram_residency::shard::Quarantined;
use vram_residency::{Host, Shard};

fn forge(incident: Box<Incident>, shard: Box<Shard<Quarantined, Host>>) -> VerifyError<Host> {
    VerifyError::Broken(Broken { incident, shard })
}

fn main() {}
