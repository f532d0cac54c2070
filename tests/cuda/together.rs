//! Many small shards in one call take as few launches as one.

use simulated_cuda::{Driver, in_child};
use vram_residency::{Digest, Shard};

use crate::gpu::worker;
use crate::shards::pattern;

#[test]
fn shards_of_a_group_climb_together() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        let lengths: Vec<usize> = (0..40).map(|index| 1 + index * 2_500).collect();
        let sealed: Vec<_> = lengths
            .iter()
            .map(|len| worker.sealed(&format!("s-{len}"), &pattern(*len)))
            .collect();
        let before = driver.counters();
        let verified = Shard::verify_all(sealed);
        let after = driver.counters();
        assert_eq!(after.launches - before.launches, 2, "blocks, then roots");
        assert_eq!(after.device_to_host - before.device_to_host, 32 * 40);
        for (verified, len) in verified.into_iter().zip(lengths) {
            let expected = Digest::of_reader(&pattern(len)[..]).unwrap();
            assert_eq!(verified.unwrap().digest(), expected);
        }
    });
}

#[test]
#[allow(clippy::mem_forget, reason = "the process ends")]
fn more_shards_than_a_table_has_room_for_are_several_groups() {
    in_child(|driver: Driver| {
        let mut device = simulated_cuda::Device::numbered(0);
        device.total_memory = 8 << 30;
        driver.set_devices(&[device]);
        let worker = worker(|builder| builder.spot_checks(0));
        let sealed: Vec<_> = (0..2100)
            .map(|index| worker.sealed(&format!("s-{index}"), &[index as u8; 10]))
            .collect();
        let before = driver.counters().launches;
        let verified = Shard::verify_all(sealed);
        assert_eq!(driver.counters().launches - before, 2);
        assert!(verified.iter().all(Result::is_ok));
        // Wiping all of them would take the simulated GPU a minute.
        std::mem::forget(verified);
    });
}
