//! Reading what is lent to cudarc on a thread that may outlive the shard must not compile: E0597.

use vram_residency::Shard;
use vram_residency::device::Cuda;
use vram_residency::shard::Verified;

fn read_later(shard: Shard<Verified, Cuda>) {
    let view = shard.view().as_cudarc();
    std::thread::spawn(move || view.len());
}

fn main() {}
