//! Using a shard whose verification failed must not compile: E0382.

use vram_residency::error::VerifyError;
use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn shrug(shard: Shard<Verified, Host>) {
    if let Err(VerifyError::Broken { .. }) = shard.reverify() {
        let _bytes = shard.view();
    }
}

fn main() {}
