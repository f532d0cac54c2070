//! Many small shards in one call take as few launches as one.

use simulated_cuda::{Driver, in_child};
use vram_residency::manager::NewShard;
use vram_residency::{Digest, Provenance, Shard};

use crate::gpu::worker;
use crate::shards::{id, model, pattern};

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

/// In whatever order small and large ones are asked for: the trees are those of the CPU.
#[test]
fn shards_of_a_batch_are_sealed_together() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        let lens: Vec<usize> = [1, 4096, 4097, 524_288, 524_289, 1_300_000]
            .into_iter()
            .chain((0..40).map(|index| 1 + index * 2_500))
            .collect();
        let wanted = lens.iter().enumerate();
        let wanted = wanted
            .map(|(index, len)| NewShard::new(id(&format!("t-{index}")), model(), *len as u64));
        let mut batch = worker.manager.allocate_all(wanted).unwrap();
        for mut member in batch.iter_mut() {
            let data = pattern(member.len() as usize);
            member.write_at(0, &data).unwrap();
        }
        let before = driver.counters();
        let sealed = batch.seal(|shard| {
            let data = pattern(shard.len() as usize);
            Provenance::FsVerity(Digest::of_reader(&data[..]).unwrap())
        });
        let mut sealed = sealed.unwrap();
        let after = driver.counters();
        assert_eq!(after.launches - before.launches, 2, "blocks, then nodes");
        let windows: usize = lens.iter().map(|len| len.div_ceil(524_288)).sum();
        let back = after.device_to_host - before.device_to_host;
        assert_eq!(back, 32 * windows as u64);
        // The kept trees are the right ones.
        let big = sealed.swap_remove(5).verify().unwrap();
        big.dangerous_flip_bit(600_000, 3).unwrap();
        let incident = big.reverify().unwrap_err();
        let incident = incident.incident().unwrap();
        assert_eq!(incident.damaged_windows(), [1..2]);
        for verified in Shard::verify_all(sealed) {
            verified
                .unwrap()
                .verify_window(0..1)
                .unwrap()
                .release()
                .unwrap();
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
