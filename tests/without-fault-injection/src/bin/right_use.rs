//! What a user of the crate does compiles without the feature.

use vram_residency::error::VerifyError;
use vram_residency::shard::{Sealed, Verified};
use vram_residency::{Host, Shard};

fn verify(shard: Shard<Sealed, Host>) -> Result<Shard<Verified, Host>, VerifyError<Host>> {
    shard.verify()
}

fn main() {
    let _use = verify;
}
