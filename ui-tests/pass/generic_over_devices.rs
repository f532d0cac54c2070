//! Code that does not care where the weights are is generic over the device.

use vram_residency::device::Device;
use vram_residency::error::VerifyError;
use vram_residency::shard::{Sealed, State, Verified};
use vram_residency::{Shard, Shared};

fn verify_all<D: Device>(
    shards: Vec<Shard<Sealed, D>>,
) -> Result<Vec<Shard<Verified, D>>, VerifyError<D>> {
    shards.into_iter().map(Shard::verify).collect()
}

fn share_all<D: Device>(shards: Vec<Shard<Verified, D>>) -> Vec<Shared<D>> {
    shards.into_iter().map(Shard::share).collect()
}

fn bytes<S: State, D: Device>(shards: &[Shard<S, D>]) -> u64 {
    shards.iter().map(Shard::len).sum()
}

fn main() {
    use vram_residency::Host;
    let _uses = (verify_all::<Host>, share_all::<Host>, bytes::<Sealed, Host>);
}
