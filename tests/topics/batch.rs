//! Shards that are allocated and sealed together: all of them or none, and afterwards each for itself.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use vram_residency::audit::Reason;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::device::{Culpability, Operation};
use vram_residency::error::{AllocateAllError, AllocateError, NotSealed, SealAllError};
use vram_residency::manager::NewShard;
use vram_residency::shard::{Batch, Sealed};
use vram_residency::{Assurance, Digest, Provenance, Shard, Stream};

use crate::backend::{Device, bytes};
use crate::shards::{HandleJson as _, Worker, id, model, pattern, recorded_incident};
use crate::support::of_event;

/// Small ones, of less than a block to more than a window, with one among them that is not small to a GPU.
const LENGTHS: [usize; 6] = [1, 384, 4097, 1_200_000, 100_000, 524_289];

fn name(len: usize) -> String {
    format!("t-{len}")
}

fn wanted(lens: &[usize]) -> Vec<NewShard> {
    lens.iter()
        .map(|len| NewShard::new(id(&name(*len)), model(), *len as u64))
        .collect()
}

/// Allocated, and each with the pattern of its length.
fn filled(worker: &Worker, lens: &[usize]) -> Batch<Device> {
    let mut batch = worker.manager.allocate_all(wanted(lens)).unwrap();
    fill(&mut batch);
    batch
}

fn fill(batch: &mut Batch<Device>) {
    for mut member in batch.iter_mut() {
        let data = pattern(member.len() as usize);
        member.load_slice(&data, Stream::TreeOnly).unwrap();
    }
}

fn digest_of(len: u64) -> Provenance {
    Provenance::FsVerity(Digest::of_reader(&pattern(len as usize)[..]).unwrap())
}

/// Verifies all, and reads them.
fn are_good(sealed: Vec<Shard<Sealed, Device>>) {
    for shard in Shard::verify_all(sealed) {
        let shard = shard.unwrap();
        assert_eq!(bytes(shard.view()), pattern(shard.len() as usize));
        shard.release().unwrap();
    }
}

/// None failed, and none is sealed.
fn not_sealed(error: SealAllError<Device>) -> (Batch<Device>, String, NotSealed) {
    let SealAllError::NotSealed {
        batch,
        shard,
        source,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    (*batch, shard.as_str().to_owned(), source)
}

/// All failed: each is an incident of the device.
fn all_broken(worker: &Worker, error: SealAllError<Device>, lens: &[usize]) {
    let SealAllError::Broken {
        broken,
        sealed,
        batch,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(sealed.is_empty() && batch.is_empty());
    let names = broken
        .iter()
        .map(|one| one.shard().id().as_str().to_owned());
    assert!(names.eq(lens.iter().map(|len| name(*len))));
    for one in broken {
        assert_eq!(one.incident().reason(), Reason::DeviceError);
        recorded_incident(worker, one.incident());
        one.into_parts().1.release().unwrap();
    }
}

#[test]
fn a_batch_is_filled_and_sealed_and_then_each_is_a_shard_of_its_own() {
    let worker = Worker::new();
    let mut batch = worker.manager.allocate_all(wanted(&LENGTHS)).unwrap();
    let total = LENGTHS.iter().sum::<usize>() as u64;
    assert_eq!((batch.len(), batch.is_empty()), (LENGTHS.len(), false));
    assert_eq!(worker.manager.capacity().used, total);
    assert_eq!(worker.manager.capacity().live, LENGTHS.len() as u64);
    // In whatever way a shard can be filled.
    let mut first = batch.get_mut(&id("t-1")).unwrap();
    first.write_at(0, &pattern(1)).unwrap();
    assert!(batch.get_mut(&id("other")).is_none());
    for mut member in batch.iter_mut().skip(1) {
        let data = pattern(member.len() as usize);
        let loaded = member.load_from(&data[..], Stream::TreeOnly).unwrap();
        assert_eq!(loaded.digest, Digest::of_reader(&data[..]).unwrap());
    }
    let states = batch
        .iter()
        .map(|shard| shard.handle_json()["state"].clone());
    assert!(states.eq(vec!["allocated"; LENGTHS.len()]));
    let sealed = batch.seal(|shard| digest_of(shard.len())).unwrap();
    let names = sealed.iter().map(|shard| shard.id().as_str().to_owned());
    assert!(names.eq(LENGTHS.map(name)), "in order");

    // One goes, is verified or shared without the others.
    let mut sealed = sealed.into_iter();
    sealed.next().unwrap().release().unwrap();
    let shared = sealed.next().unwrap().verify().unwrap().share();
    let lease = shared.lease().unwrap();
    let big = sealed.next().unwrap();
    big.dangerous_flip_bit(4000, 3).unwrap();
    let error = big.verify().unwrap_err();
    assert_eq!(error.incident().unwrap().reason(), Reason::DigestMismatch);
    drop(error);
    are_good(sealed.collect());
    shared.check().unwrap();
    assert_eq!(bytes(lease.view()), pattern(384));
    drop((shared, lease));

    let records = worker.close();
    let of = |event| of_event(&records, event);
    assert_eq!(of("VramAllocated").len(), LENGTHS.len());
    let read_only = of("VramSealed")
        .iter()
        .filter(|one| one["read_only"] == true)
        .count();
    assert_eq!(read_only, LENGTHS.len());
    let gone = of("VramDeallocated");
    assert!(
        gone.iter()
            .all(|one| one["wiped"] == true && one["freed"] == true)
    );
    assert_eq!(gone.len(), LENGTHS.len());
    assert_eq!(gone.last().unwrap()["used_bytes"], 0);
}

#[test]
fn no_shards_are_a_batch_too() {
    let worker = Worker::new();
    let batch = worker.manager.allocate_all([]).unwrap();
    assert!(batch.is_empty());
    assert!(batch.seal(|_| unreachable!()).unwrap().is_empty());
}

#[test]
fn a_batch_that_is_dropped_or_released_is_wiped_and_on_record() {
    let worker = Worker::new();
    drop(filled(&worker, &LENGTHS));
    filled(&worker, &LENGTHS).release().unwrap();
    let gone = worker.recorded("VramDeallocated");
    assert_eq!(gone.len(), 2 * LENGTHS.len());
    assert!(gone.iter().all(|one| one["wiped"] == true));
    let capacity = worker.manager.capacity();
    assert_eq!((capacity.used, capacity.live), (0, 0));
}

#[test]
fn all_are_allocated_or_none_and_the_record_names_the_one() {
    let worker = Worker::with(|builder| builder.limit(10_000).shard_limit(6000));
    let lives = worker.allocated("lives", 100);
    let refuse = |lens: &[(&str, u64)]| -> AllocateAllError {
        let wanted = lens
            .iter()
            .map(|(name, len)| NewShard::new(id(name), model(), *len));
        let error = worker.manager.allocate_all(wanted).unwrap_err();
        let capacity = worker.manager.capacity();
        assert_eq!((capacity.used, capacity.live), (100, 1), "{error:?}");
        let record = worker.recorded("VramAllocationFailed").pop().unwrap();
        assert_eq!(record["shard"], error.shard.as_str());
        assert_eq!(record["reason"], error.source.to_string());
        error
    };
    let error = refuse(&[("a", 10), ("b", 0), ("c", 10)]);
    assert_eq!(error.shard.as_str(), "b");
    assert!(matches!(error.source, AllocateError::ZeroLength));
    assert!(error.to_string().contains("shard b"), "{error}");
    let error = refuse(&[("a", 10), ("b", 6001)]);
    assert!(matches!(error.source, AllocateError::TooLarge { .. }));
    let error = refuse(&[("a", 10), ("b", 10), ("a", 10)]);
    assert_eq!(error.shard.as_str(), "a");
    assert!(matches!(error.source, AllocateError::DuplicateId { .. }));
    let error = refuse(&[("a", 10), ("lives", 10)]);
    assert!(matches!(error.source, AllocateError::DuplicateId { .. }));
    let error = refuse(&[("a", 5000), ("b", 4900), ("c", 1)]);
    assert_eq!(error.shard.as_str(), "c");
    assert!(matches!(
        error.source,
        AllocateError::NoRoom {
            needed: 9901,
            available: 9900,
            ..
        }
    ));
    worker
        .faults
        .fail(Operation::Allocate, 1, Culpability::Inconclusive);
    let error = refuse(&[("a", 10), ("b", 10), ("c", 10)]);
    assert!(matches!(error.source, AllocateError::Device(_)));
    assert_eq!(worker.recorded("VramAllocated").len(), 1);
    // The names are free again.
    let batch = worker
        .manager
        .allocate_all(["a", "b"].map(|name| NewShard::new(id(name), model(), 4950)));
    batch.unwrap().release().unwrap();
    lives.release().unwrap();
}

#[test]
fn what_the_caller_has_forgotten_for_one_leaves_all_as_they_were() {
    let worker = Worker::with(|builder| builder.require_pinned());
    let mut batch = worker.manager.allocate_all(wanted(&LENGTHS)).unwrap();
    for mut member in batch.iter_mut().filter(|member| member.len() != 4097) {
        let data = pattern(member.len() as usize);
        member.write_at(0, &data).unwrap();
    }
    batch
        .get_mut(&id("t-4097"))
        .unwrap()
        .write_at(0, &[1; 4000])
        .unwrap();
    let error = batch.seal(|shard| digest_of(shard.len())).unwrap_err();
    assert!(error.to_string().contains("t-4097"), "{error}");
    let (mut batch, shard, source) = not_sealed(error);
    assert_eq!(shard, "t-4097");
    assert!(matches!(source, NotSealed::Incomplete { missing, .. } if missing == (4000..4097)));
    fill(&mut batch);
    let (batch, shard, source) =
        not_sealed(batch.seal(|_| Provenance::UnpinnedFirstUse).unwrap_err());
    assert_eq!(shard, "t-1");
    assert!(matches!(source, NotSealed::Unpinned { record: Ok(_), .. }));
    assert_eq!(worker.on_disk("PolicyViolation").len(), 1);
    let sha256 = Provenance::Sha256("00".repeat(32).parse().unwrap());
    let provenance = |shard: &Shard<_, _>| match shard.len() {
        384 => sha256,
        len => digest_of(len),
    };
    let (batch, shard, source) = not_sealed(batch.seal(provenance).unwrap_err());
    assert_eq!(shard, "t-384");
    assert!(matches!(source, NotSealed::NoStreamDigest));
    are_good(batch.seal(|shard| digest_of(shard.len())).unwrap());
    // None of that was a verification.
    let records = worker.close();
    assert_eq!(of_event(&records, "VerificationInconclusive").len(), 0);
    assert_eq!(of_event(&records, "VramSealed").len(), LENGTHS.len());
}

#[test]
fn those_that_are_not_what_they_should_be_are_incidents_and_all_others_are_sealed() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    let wrong = [384, 524_289];
    let provenance = |shard: &Shard<_, _>| match shard.len() as usize {
        len if wrong.contains(&len) => digest_of(7),
        _ => digest_of(shard.len()),
    };
    let error = batch.seal(provenance).unwrap_err();
    assert!(
        error.to_string().contains("2 of the batch's shards failed"),
        "{error}"
    );
    let SealAllError::Broken {
        broken,
        sealed,
        batch,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((broken.len(), batch.len()), (2, 0));
    for (broken, len) in broken.into_iter().zip(wrong) {
        assert_eq!(broken.shard().id().as_str(), name(len));
        assert_eq!(broken.incident().reason(), Reason::ProvenanceMismatch);
        recorded_incident(&worker, broken.incident());
        broken.into_parts().1.release().unwrap();
    }
    assert_eq!(sealed.len(), LENGTHS.len() - 2);
    are_good(sealed);
    assert_eq!(of_event(&worker.close(), "SealVerificationFailed").len(), 2);
}

/// Wherever the device has no answer: all can be written to again, and be sealed then.
#[test]
fn without_an_answer_for_one_none_is_sealed_and_all_come_back() {
    let worker = Worker::new();
    let mut batch = filled(&worker, &LENGTHS);
    let mut asked = 0;
    for operation in [
        Operation::Synchronize,
        Operation::Protect,
        Operation::Digest,
    ] {
        for passing in [0, 2, 5] {
            worker
                .faults
                .fail(operation, passing, Culpability::Inconclusive);
            let error = batch.seal(|shard| digest_of(shard.len())).unwrap_err();
            let (back, shard, source) = not_sealed(error);
            assert_eq!(shard, name(LENGTHS[passing as usize]), "{operation:?}");
            assert!(matches!(source, NotSealed::Inconclusive(_)), "{source:?}");
            batch = back;
            asked += 1;
            let records = worker.recorded("VerificationInconclusive");
            assert_eq!(records.len(), asked * LENGTHS.len());
            let of_this = &records[records.len() - LENGTHS.len()..];
            for (record, len) in of_this.iter().zip(LENGTHS) {
                assert_eq!(record["shard"], name(len), "in order");
                let says_which = record["cause"].as_str().unwrap().contains(&shard);
                assert_eq!(says_which, name(len) != shard, "{record}");
            }
            fill(&mut batch);
        }
    }
    assert_eq!(worker.recorded("VramSealed").len(), 0);
    are_good(batch.seal(|shard| digest_of(shard.len())).unwrap());
}

/// If nobody knows what of one can be written to, nobody knows it of what it shares memory with.
#[test]
fn a_device_that_breaks_while_it_protects_fails_all() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    worker
        .faults
        .fail(Operation::Protect, 2, Culpability::Broken);
    let error = batch.seal(|shard| digest_of(shard.len())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("6 of the batch's shards failed"), "{text}");
    all_broken(&worker, error, &LENGTHS);
    let details = worker.recorded("SealVerificationFailed");
    let says_which = |record: &&Value| record["detail"].as_str().unwrap().contains("t-4097");
    assert_eq!(details.iter().filter(says_which).count(), 5);
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 0);
}

#[test]
fn a_device_that_breaks_while_it_reads_costs_that_shard() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    worker
        .faults
        .fail(Operation::Digest, 1, Culpability::Broken);
    let error = batch.seal(|shard| digest_of(shard.len())).unwrap_err();
    let SealAllError::Broken { broken, sealed, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(broken[0].shard().id().as_str(), name(LENGTHS[1]));
    are_good(sealed);
}

/// A shard that cannot be written to again is none to be filled, nor is what it shares memory with.
#[test]
fn what_cannot_be_made_writable_again_fails_all() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    worker
        .faults
        .fail(Operation::Digest, 4, Culpability::Inconclusive);
    worker
        .faults
        .fail(Operation::Unprotect, 1, Culpability::Inconclusive);
    let error = batch.seal(|shard| digest_of(shard.len())).unwrap_err();
    all_broken(&worker, error, &LENGTHS);
    let records = worker.recorded("SealVerificationFailed");
    let says_which = |record: &&Value| record["detail"].as_str().unwrap().contains("t-384");
    assert_eq!(records.iter().filter(says_which).count(), 5);
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 0);
}

/// One has failed, and of another it is not known: whoever goes on with the rest sees that one is missing.
#[test]
fn an_incident_is_told_before_the_lack_of_an_answer() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    let provenance = |shard: &Shard<_, _>| match shard.len() {
        384 => digest_of(7),
        len => digest_of(len),
    };
    worker
        .faults
        .fail(Operation::Digest, 3, Culpability::Inconclusive);
    let error = batch.seal(provenance).unwrap_err();
    assert!(error.to_string().contains("t-384"), "{error}");
    let SealAllError::Broken {
        broken,
        sealed,
        batch,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(broken[0].shard().id().as_str(), "t-384");
    assert_eq!((broken.len(), sealed.len()), (1, 0));
    assert_eq!(batch.len(), LENGTHS.len() - 1);
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 5);
    are_good(batch.seal(|shard| digest_of(shard.len())).unwrap());
}

/// What the panic leaves open is on record as interrupted, as for one shard.
#[test]
fn a_panic_on_the_way_is_an_incident_of_each() {
    let worker = Worker::new();
    let batch = filled(&worker, &LENGTHS);
    worker.faults.panic(Operation::Digest, 3);
    let seal = std::panic::AssertUnwindSafe(|| batch.seal(|shard| digest_of(shard.len())));
    assert!(std::panic::catch_unwind(seal).is_err());
    let failed = worker.on_disk("SealVerificationFailed");
    assert_eq!(failed.len(), LENGTHS.len());
    assert!(failed.iter().all(|one| one["reason"] == "interrupted"));
    assert_eq!(worker.recorded("VramDeallocated").len(), LENGTHS.len());
}

/// Some are sealed on record already when the disk is full: that is taken back.
#[test]
fn without_durable_records_none_is_sealed_and_that_is_on_record() {
    let worker = Worker::with_trail(
        |trail| trail.critical_deadline(Duration::from_millis(200)),
        |manager| manager.assurance(Assurance::Durable),
    );
    let lens: Vec<usize> = (1..=150).collect();
    let batch = filled(&worker, &lens);
    let error = thread::scope(|scope| {
        let sealing = scope.spawn(|| batch.seal(|shard| digest_of(shard.len())).unwrap_err());
        while worker.on_disk("VramSealed").is_empty() {
            thread::yield_now();
        }
        worker
            .disk
            .fail(Step::Write, StorageError::NoSpace, 100_000);
        sealing.join().unwrap()
    });
    let (mut batch, stopped, source) = not_sealed(error);
    assert!(matches!(source, NotSealed::Unrecorded(_)), "{source:?}");
    assert_eq!(batch.len(), lens.len());
    let refused = worker
        .manager
        .allocate_all([NewShard::new(id("more"), model(), 10)]);
    assert!(matches!(
        refused.unwrap_err().source,
        AllocateError::Unrecorded(_)
    ));
    worker.disk.heal();
    fill(&mut batch);
    are_good(batch.seal(|shard| digest_of(shard.len())).unwrap());

    let records = worker.close();
    let mut story: BTreeMap<&str, BTreeMap<u64, &str>> = BTreeMap::new();
    for record in records.iter().filter(|record| record["shard"] != "more") {
        // Once for each number: a segment that was given up may have some that are void.
        if let (Some(shard), Some(seq)) = (record["shard"].as_str(), record["seq"].as_u64()) {
            let event = record["event"].as_str().unwrap();
            story.entry(shard).or_default().insert(seq, event);
        }
    }
    let stopped: usize = stopped[2..].parse().unwrap();
    assert!(
        (2..150).contains(&stopped),
        "{stopped}: neither the first nor the last"
    );
    for len in lens {
        let events: Vec<&str> = story[name(len).as_str()].values().copied().collect();
        let sealed_before = ["VramAllocated", "VramSealed", "VerificationInconclusive"];
        let at_last = ["VramSealed", "SealVerified", "VramDeallocated"];
        let before = match len <= stopped {
            true => &sealed_before[..],
            false => &["VramAllocated", "VerificationInconclusive"],
        };
        assert_eq!(events, [before, &at_last].concat(), "{len} of {stopped}");
    }
}
