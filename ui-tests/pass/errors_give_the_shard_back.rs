//! An error says whose fault it is and gives the shard back: to try again, or to release it.

use std::error::Error;

use vram_residency::error::{SealError, VerifyError};
use vram_residency::shard::{Allocated, Sealed, Verified};
use vram_residency::{Host, Provenance, Shard};

fn seal(
    shard: Shard<Allocated, Host>,
    provenance: Provenance,
) -> Result<Shard<Sealed, Host>, Box<dyn Error + Send + Sync>> {
    match shard.seal(provenance) {
        Err(SealError::Incomplete {
            mut shard, missing, ..
        }) => {
            let rest = vec![0; usize::try_from(missing.end - missing.start)?];
            shard.write_at(missing.start, &rest)?;
            Ok(shard.seal(provenance)?)
        }
        other => Ok(other?),
    }
}

fn verify(shard: Shard<Sealed, Host>) -> Result<Shard<Verified, Host>, Box<dyn Error>> {
    match shard.verify() {
        Ok(shard) => Ok(shard),
        Err(VerifyError::Broken(broken)) => {
            let (incident, shard) = broken.into_parts();
            let durable = incident.record().is_ok();
            shard.release()?;
            Err(format!("{incident}; durable: {durable}").into())
        }
        Err(error) => match error.into_shard() {
            Ok(shard) => Ok(shard.verify()?),
            Err(quarantined) => Err(format!("{quarantined:?}").into()),
        },
    }
}

fn main() {
    let _uses = (seal, verify);
}
