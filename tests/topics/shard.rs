//! Shards on host memory, through the public interface: filling, sealing, and a whole life, with what
//! comes back with an error and what is on record afterwards.

use std::io::{self, Read};
use std::ops::ControlFlow;

use crate::backend::{self, Device};
use crate::shards::{HandleJson, WINDOW, Worker, broken_seal, pattern, stop};
use crate::support::of_event;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vram_residency::device::{Culpability, Operation};
use vram_residency::error::{LoadError, SealError, WriteError};
use vram_residency::shard::Allocated;
use vram_residency::{Digest, Provenance, Shard, Stream, StreamDigest};

/// From fsverity-utils' test vectors: `pattern(1_000_000)`.
const DIGEST_1_000_000: &str = "48df0c462329cd879661bd05b39aa81b05cc16afd27a7196a559da83531d39d9";

fn events(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect()
}

#[test]
fn a_shard_is_allocated_sealed_verified_read_and_released_and_all_of_it_is_on_record() {
    let worker = Worker::new();
    let data = pattern(1_000_000);
    let mut shard = worker.allocated("s-0", 1_000_000);
    assert_eq!(
        shard.handle_json(),
        json!({
            "shard": "s-0", "allocation": 1, "device": crate::backend::NAME, "bytes": 1_000_000,
            "model": "org/model:v1", "model_index": 1, "model_total": 3, "state": "allocated",
        })
    );
    let loaded = shard.load_from(data.as_slice(), Stream::TreeOnly).unwrap();
    assert_eq!(loaded.digest.to_string(), DIGEST_1_000_000);
    assert_eq!(loaded.sha256, None);

    let shard = shard.seal(Provenance::FsVerity(loaded.digest)).unwrap();
    assert_eq!(shard.digest().to_string(), DIGEST_1_000_000);
    let handle = shard.handle_json();
    assert_eq!(handle["state"], "sealed");
    assert_eq!(handle["digest"], DIGEST_1_000_000);
    assert!(handle["sealed_time"].is_string() && handle["verified_time"].is_null());

    let shard = shard.verify().unwrap();
    assert_eq!(crate::backend::bytes(shard.view()), data);
    let first = shard.verified_at();
    assert_eq!(shard.handle_json()["state"], "verified");
    let shard = shard.reverify().unwrap();
    assert!(shard.verified_at() > first);
    let second = shard.verified_at();
    let shard = shard.verify_window(1..2).unwrap();
    assert_eq!(shard.verified_at(), second);
    assert_eq!(crate::backend::bytes(shard.view()), data);
    shard.release().unwrap();
    assert_eq!(worker.manager.capacity().used, 0);

    let key = worker.manager.key_id().to_string();
    let records = worker.close();
    let first = backend::RECORDS_AT_OPENING;
    assert_eq!(
        events(&records)[first..],
        [
            "VramAllocated",
            "VramSealed",
            "SealVerified",
            "SealVerified",
            "SealVerified",
            "VramDeallocated",
            "TrailClosed",
        ]
    );
    let has = |record: &Value, fields: Value| {
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&record[name], value, "{name} in {record}");
        }
    };
    has(
        &records[first],
        json!({
            "shard": "s-0", "allocation": 1, "device": crate::backend::NAME, "model": "org/model:v1",
            "model_index": 1, "model_total": 3, "requested_bytes": 1_000_000,
            "allocated_bytes": backend::allocated_bytes(1_000_000), "used_bytes": 1_000_000, "worker": "worker-1",
            "severity": "INFO", "outcome": "success", "by": "library",
        }),
    );
    assert!(
        records[first]["available_bytes"].is_u64() && records[first]["memory_locked"].is_boolean()
    );
    has(
        &records[first + 1],
        json!({
            "shard": "s-0", "allocation": 1, "bytes": 1_000_000, "digest": DIGEST_1_000_000,
            "provenance": "fs_verity", "key_id": key, "token_access": "memory", "read_only": true,
            "sealed_time": handle["sealed_time"],
        }),
    );
    assert_eq!(records[first + 1]["epoch"].as_str().unwrap().len(), 32);
    let verified = |operation, windows: [u64; 2], bytes| {
        json!({
            "operation": operation, "digest": DIGEST_1_000_000, "bytes": bytes,
            "first_window": windows[0], "end_window": windows[1],
        })
    };
    has(&records[first + 2], verified("verify", [0, 2], 1_000_000));
    has(&records[first + 3], verified("reverify", [0, 2], 1_000_000));
    has(
        &records[first + 4],
        verified("verify_window", [1, 2], 1_000_000 - WINDOW),
    );
    has(
        &records[first + 5],
        json!({"freed_bytes": 1_000_000, "used_bytes": 0, "wiped": true, "freed": true}),
    );
    has(&records[first + 6], json!({"live_shards": 0}));
}

#[test]
fn every_byte_must_be_written_before_sealing() {
    let worker = Worker::new();
    let shard = worker.allocated("s", 100);
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(&error, SealError::Incomplete { missing, .. } if *missing == (0..100)));
    let mut shard = error.into_shard().unwrap();
    shard.write_at(40, &[1; 60]).unwrap();
    shard.write_at(0, &[1; 39]).unwrap();
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(&error, SealError::Incomplete { missing, .. } if *missing == (39..40)));
    let mut shard = error.into_shard().unwrap();
    shard.write_at(39, &[1]).unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    assert_eq!(
        crate::backend::bytes(shard.verify().unwrap().view()),
        [1; 100]
    );
}

#[test]
fn writing_outside_of_a_shard_is_refused() {
    let worker = Worker::new();
    let mut shard = worker.allocated("s", 100);
    for (offset, len) in [(100, 1), (0, 101), (u64::MAX, 2), (99, 2)] {
        let refused = shard.write_at(offset, &vec![0; len]);
        assert!(matches!(refused, Err(WriteError::OutOfBounds { .. })));
    }
    shard.write_at(100, &[]).unwrap();
}

/// Of more bytes than all threads have at a time, and an end that is no whole chunk.
#[test]
fn bytes_in_memory_are_loaded_as_a_stream_of_them_is() {
    let worker = Worker::new();
    let data = pattern(3_500_001);
    let sha256 = Some(StreamDigest::from_bytes(Sha256::digest(&data).into()));
    for (stream, sha256) in [(Stream::TreeOnly, None), (Stream::WithSha256, sha256)] {
        let mut shard = worker.allocated("s", data.len() as u64);
        let mut told = 0;
        let loaded = shard.load_slice_with_progress(&data, stream, |progress| {
            assert_eq!(progress.total, data.len() as u64);
            told = progress.done;
            ControlFlow::Continue(())
        });
        let loaded = loaded.unwrap();
        assert_eq!(told, data.len() as u64);
        assert_eq!(loaded.digest, Digest::of_reader(&data[..]).unwrap());
        assert_eq!(loaded.sha256, sha256);
        let shard = shard.seal(Provenance::FsVerity(loaded.digest)).unwrap();
        let shard = shard.verify().unwrap();
        assert!(crate::backend::bytes(shard.view()) == data);
        shard.release().unwrap();
    }
}

/// Yields some bytes and then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.0.min(out.len());
        self.0 -= len;
        match len {
            0 => Err(io::Error::other("gone")),
            len => Ok(len),
        }
    }
}

#[test]
fn after_a_load_that_failed_nothing_counts_as_written() {
    let worker = Worker::new();
    let data = pattern(1000);
    let load = |shard: &mut Shard<_, _>, reader: &mut dyn Read| {
        shard.load_from(reader, Stream::TreeOnly).unwrap_err()
    };
    let mut shard = worker.written("s", &data);
    let too_short = load(&mut shard, &mut &data[..999]);
    assert!(matches!(
        too_short,
        LoadError::TooShort {
            expected: 1000,
            got: 999,
            ..
        }
    ));
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(&error, SealError::Incomplete { missing, .. } if *missing == (0..1000)));

    let mut shard = error.into_shard().unwrap();
    assert!(matches!(
        load(&mut shard, &mut pattern(1001).as_slice()),
        LoadError::TooLong { expected: 1000, .. }
    ));
    assert!(matches!(
        load(&mut shard, &mut Failing(10)),
        LoadError::Reader(_)
    ));
    let stopped = shard.load_from_with_progress(data.as_slice(), Stream::TreeOnly, stop);
    assert!(matches!(stopped, Err(LoadError::Stopped(_))));
    let faults = &worker.faults;
    faults.fail(Operation::Write, 0, Culpability::Inconclusive);
    assert!(matches!(
        load(&mut shard, &mut data.as_slice()),
        LoadError::Device(_)
    ));
    let mut from_memory = |bytes: &[u8]| shard.load_slice(bytes, Stream::TreeOnly);
    assert!(matches!(
        from_memory(&data[..999]),
        Err(LoadError::TooShort {
            expected: 1000,
            got: 999,
            ..
        })
    ));
    assert!(matches!(
        from_memory(&pattern(1001)),
        Err(LoadError::TooLong { expected: 1000, .. })
    ));
    faults.fail(Operation::Write, 0, Culpability::Inconclusive);
    assert!(matches!(from_memory(&data), Err(LoadError::Device(_))));
    let stopped = shard.load_slice_with_progress(&data, Stream::TreeOnly, stop);
    assert!(matches!(stopped, Err(LoadError::Stopped(_))));
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();

    let mut shard = error.into_shard().unwrap();
    shard.load_from(data.as_slice(), Stream::TreeOnly).unwrap();
    shard
        .seal(Provenance::UnpinnedFirstUse)
        .unwrap()
        .release()
        .unwrap();
    let failed = of_event(&worker.close(), "DeviceFailed");
    assert_eq!(failed.len(), 9);
    assert!(
        failed
            .iter()
            .all(|record| record["operation"] == "load" && record["shard"] == "s")
    );
}

#[test]
fn a_failed_write_is_on_record_and_nothing_counts_as_written() {
    let worker = Worker::new();
    let mut shard = worker.written("s", &[1; 100]);
    worker
        .faults
        .fail(Operation::Write, 0, Culpability::Inconclusive);
    assert!(matches!(
        shard.write_at(50, &[2]),
        Err(WriteError::Device(_))
    ));
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(&error, SealError::Incomplete { missing, .. } if *missing == (0..100)));
    drop(error);
    let failed = of_event(&worker.close(), "DeviceFailed");
    assert_eq!(
        (failed.len(), &failed[0]["operation"]),
        (1, &json!("write"))
    );
}

/// SHA-256 of "abc", from FIPS 180-2.
const SHA256_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn load_abc(worker: &Worker, stream: Stream) -> Shard<Allocated, Device> {
    let mut shard = worker.allocated("s", 3);
    shard.load_from(&b"abc"[..], stream).unwrap();
    shard
}

#[test]
fn the_right_provenance_seals() {
    let worker = Worker::new();
    let sha256: StreamDigest = SHA256_ABC.parse().unwrap();
    let shard = load_abc(&worker, Stream::WithSha256);
    shard
        .seal(Provenance::Sha256(sha256))
        .unwrap()
        .release()
        .unwrap();
    let digest: Digest = DIGEST_1_000_000.parse().unwrap();
    let shard = worker.written("s", &pattern(1_000_000));
    shard
        .seal(Provenance::FsVerity(digest))
        .unwrap()
        .release()
        .unwrap();
    let sealed = of_event(&worker.close(), "VramSealed");
    assert_eq!(sealed[0]["provenance"], "sha256");
    assert_eq!(sealed[0]["stream_sha256"], SHA256_ABC);
    assert_eq!(sealed[1]["provenance"], "fs_verity");
    assert!(sealed[1]["stream_sha256"].is_null());
}

#[test]
fn a_wrong_provenance_is_an_incident_with_both_digests() {
    let worker = Worker::new();
    let wrong = SHA256_ABC.replace("ad", "ae");
    let shard = load_abc(&worker, Stream::WithSha256);
    let error = shard
        .seal(Provenance::Sha256(wrong.parse().unwrap()))
        .unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains(&format!("expected {wrong}, found {SHA256_ABC}")),
        "{words}"
    );
    let (record, shard) = broken_seal(&worker, error);
    assert_eq!(record["reason"], "provenance_mismatch");
    assert_eq!(
        (&record["expected"], &record["actual"]),
        (&json!(wrong), &json!(SHA256_ABC))
    );
    assert_eq!(record["operation"], "seal");
    shard.release().unwrap();

    let shard = worker.written("s", &pattern(1_000_000));
    let error = shard
        .seal(Provenance::FsVerity(wrong.parse().unwrap()))
        .unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains(&format!("expected {wrong}, found {DIGEST_1_000_000}")),
        "{words}"
    );
    let (record, shard) = broken_seal(&worker, error);
    assert_eq!(record["reason"], "provenance_mismatch");
    assert_eq!(record["expected"], wrong);
    assert_eq!(record["actual"], DIGEST_1_000_000);
    assert!(record["injected"].is_null());
    shard.release().unwrap();
}

#[test]
fn a_sha256_without_a_stream_of_its_own_gives_the_shard_back() {
    let worker = Worker::new();
    let provenance = Provenance::Sha256(SHA256_ABC.parse().unwrap());
    let shard = load_abc(&worker, Stream::TreeOnly);
    let error = shard.seal(provenance).unwrap_err();
    assert!(matches!(error, SealError::NoStreamDigest { .. }));
    let mut shard = error.into_shard().unwrap();
    shard.load_from(&b"abc"[..], Stream::WithSha256).unwrap();
    shard.write_at(0, b"a").unwrap();
    let error = shard.seal(provenance).unwrap_err();
    assert!(
        matches!(error, SealError::NoStreamDigest { .. }),
        "a write makes another stream of it"
    );
    let mut shard = error.into_shard().unwrap();
    shard.load_from(&b"abc"[..], Stream::WithSha256).unwrap();
    drop(shard.seal(provenance).unwrap());
}

#[test]
fn a_write_after_a_load_is_what_gets_sealed() {
    let worker = Worker::new();
    let mut shard = load_abc(&worker, Stream::WithSha256);
    shard.write_at(1, b"B").unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    assert_eq!(
        crate::backend::bytes(shard.verify().unwrap().view()),
        b"aBc"
    );
}

#[test]
fn a_manager_that_requires_a_provenance_refuses_to_do_without() {
    let worker = Worker::with(|builder| builder.require_pinned());
    let shard = worker.written("s", &pattern(1_000_000));
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    let SealError::Unpinned { record, .. } = &error else {
        panic!("{error:?}")
    };
    let violations = worker.on_disk("PolicyViolation");
    assert_eq!(violations[0]["seq"], record.as_ref().unwrap().seq().value());
    assert_eq!(violations[0]["policy"], "require_pinned");
    assert_eq!(violations[0]["by"], "library");
    assert_eq!(violations[0]["shard"], "s");
    assert_eq!(violations[0]["action"], "refused");
    let shard = error.into_shard().unwrap();
    let digest = DIGEST_1_000_000.parse().unwrap();
    drop(shard.seal(Provenance::FsVerity(digest)).unwrap());
}

#[test]
fn a_bad_copy_on_the_way_into_the_device_is_found_at_sealing() {
    let worker = Worker::new();
    let data = pattern(4 << 20);
    for is_slice in [false, true] {
        let mut shard = worker.allocated("s", 4 << 20);
        worker.faults.corrupt_write(2);
        let loaded = if is_slice {
            shard.load_slice(&data, Stream::TreeOnly).unwrap()
        } else {
            shard.load_from(&data[..], Stream::TreeOnly).unwrap()
        };
        let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
        let (record, _shard) = broken_seal(&worker, error);
        assert_eq!(record["reason"], "provenance_mismatch");
        assert_eq!(record["expected"], loaded.digest.to_string());
        // A chunk has two windows; whichever was copied as the third was hit at its beginning.
        let window = record["damaged"][0][0].as_u64().unwrap();
        assert_eq!((window % 2, &record["damaged_windows"]), (0, &json!(1)));
        let mut damaged = data.clone();
        damaged[(window * WINDOW) as usize] ^= 1;
        let damaged = Digest::of_reader(&damaged[..]).unwrap();
        assert_eq!(record["actual"], damaged.to_string());
    }
}

#[test]
fn sealing_without_an_answer_gives_the_shard_back_writable() {
    let worker = Worker::new();
    for operation in [
        Operation::Synchronize,
        Operation::Protect,
        Operation::Digest,
    ] {
        let shard = worker.written("s", &pattern(100));
        worker.faults.fail(operation, 0, Culpability::Inconclusive);
        let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
        assert!(matches!(error, SealError::Inconclusive { .. }));
        let mut shard = error.into_shard().unwrap();
        shard.write_at(0, &[9]).unwrap();
        let shard = shard
            .seal_with_progress(Provenance::UnpinnedFirstUse, stop)
            .unwrap_err();
        let mut shard = shard.into_shard().unwrap();
        shard.write_at(0, &[8]).unwrap();
        drop(shard.seal(Provenance::UnpinnedFirstUse).unwrap());
    }
}

#[test]
fn sealing_on_a_broken_device_and_memory_that_stays_read_only_are_incidents() {
    let worker = Worker::new();
    for operation in [
        Operation::Synchronize,
        Operation::Protect,
        Operation::Digest,
    ] {
        let shard = worker.written("s", &pattern(100));
        worker.faults.fail(operation, 0, Culpability::Broken);
        let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
        let (record, _shard) = broken_seal(&worker, error);
        assert_eq!(record["reason"], "device_error");
    }
    let shard = worker.written("s", &pattern(100));
    worker
        .faults
        .fail(Operation::Unprotect, 0, Culpability::Inconclusive);
    let error = shard
        .seal_with_progress(Provenance::UnpinnedFirstUse, stop)
        .unwrap_err();
    let (record, _shard) = broken_seal(&worker, error);
    assert_eq!(record["reason"], "device_error");
}
