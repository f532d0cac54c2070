//! Shards on host memory, through the public interface: every transition, what comes back with an
//! error, and what is on record afterwards.

#[path = "support/shards.rs"]
mod shards;
mod support;

use std::error::Error;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::{Value, json};
use shards::{WINDOW, Worker, id, model, pattern, places};
use support::of_event;
use vram_residency::audit::Reason;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::device::{Bound, Culpability, Operation};
use vram_residency::error::{
    AllocateError, LoadError, NoAnswer, ReleaseError, SealError, VerifyError, WriteError,
};
use vram_residency::seal::Tamper;
use vram_residency::shard::{Quarantined, dangerous_swap_seals};
use vram_residency::{Assurance, Digest, Host, Provenance, Shard, Stream, StreamDigest};

/// From fsverity-utils' test vectors: `pattern(1_000_000)`.
const DIGEST_1_000_000: &str = "48df0c462329cd879661bd05b39aa81b05cc16afd27a7196a559da83531d39d9";

fn go(_: vram_residency::digest::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn stop(_: vram_residency::digest::Progress) -> ControlFlow<()> {
    ControlFlow::Break(())
}

fn events(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect()
}

/// Takes a failed verification apart, and checks what holds for every one: the record is durable and
/// on disk by now, and says what the incident says.
fn broken(worker: &Worker, error: VerifyError<Host>) -> (Value, Box<Shard<Quarantined, Host>>) {
    let VerifyError::Broken {
        incident, shard, ..
    } = error
    else {
        panic!("{error:?}")
    };
    let record = recorded_incident(worker, &incident);
    assert_eq!(shard.handle_json()["state"], "quarantined");
    (record, shard)
}

fn broken_seal(worker: &Worker, error: SealError<Host>) -> (Value, Box<Shard<Quarantined, Host>>) {
    let SealError::Broken {
        incident, shard, ..
    } = error
    else {
        panic!("{error:?}")
    };
    (recorded_incident(worker, &incident), shard)
}

fn recorded_incident(worker: &Worker, incident: &vram_residency::audit::Incident) -> Value {
    let receipt = incident.record().unwrap();
    assert_eq!(Some(receipt.seq()), incident.seq());
    assert!(receipt.checkpoint().size() > 0);
    let records = worker.on_disk("SealVerificationFailed");
    let record = records
        .iter()
        .find(|record| record["seq"] == receipt.seq().value())
        .expect("the record is on disk before the error is returned");
    assert_eq!(record["severity"], "CRITICAL");
    assert_eq!(record["reason"], incident.reason().to_string());
    assert_eq!(record["shard"], incident.shard().as_str());
    assert_eq!(record["allocation"], incident.allocation());
    assert_eq!(record["expected"].as_str(), incident.expected().as_deref());
    assert_eq!(record["actual"].as_str(), incident.actual().as_deref());
    assert_eq!(record["injected"] == true, incident.is_injected());
    record.clone()
}

trait HandleJson {
    fn handle_json(&self) -> Value;
}

impl<S: vram_residency::shard::State> HandleJson for Shard<S, Host> {
    fn handle_json(&self) -> Value {
        serde_json::to_value(self.handle()).unwrap()
    }
}

#[test]
fn a_shard_is_allocated_sealed_verified_read_and_released_and_all_of_it_is_on_record() {
    let worker = Worker::new();
    let data = pattern(1_000_000);
    let mut shard = worker.allocated("s-0", 1_000_000);
    assert_eq!(
        shard.handle_json(),
        json!({
            "shard": "s-0", "allocation": 1, "device": "host", "bytes": 1_000_000,
            "model": "org/model:v1", "model_index": 1, "model_total": 3, "state": "allocated",
        })
    );
    let loaded = shard
        .load_from(data.as_slice(), Stream::TreeOnly, go)
        .unwrap();
    assert_eq!(loaded.digest.to_string(), DIGEST_1_000_000);
    assert_eq!(loaded.sha256, None);

    let shard = shard.seal(Provenance::FsVerity(loaded.digest)).unwrap();
    assert_eq!(shard.digest().to_string(), DIGEST_1_000_000);
    let handle = shard.handle_json();
    assert_eq!(handle["state"], "sealed");
    assert_eq!(handle["digest"], DIGEST_1_000_000);
    assert!(handle["sealed_time"].is_string() && handle["verified_time"].is_null());

    let shard = shard.verify().unwrap();
    assert_eq!(shard.view(), data);
    let first = shard.verified_at();
    assert_eq!(shard.handle_json()["state"], "verified");
    let shard = shard.reverify().unwrap();
    assert!(shard.verified_at() > first);
    let second = shard.verified_at();
    let shard = shard.verify_window(1..2).unwrap();
    assert_eq!(shard.verified_at(), second);
    assert_eq!(shard.view(), data);
    shard.release().unwrap();
    assert_eq!(worker.manager.capacity().used, 0);

    let key = worker.manager.key_id().to_string();
    let records = worker.close();
    assert_eq!(
        events(&records)[1..],
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
        &records[1],
        json!({
            "shard": "s-0", "allocation": 1, "device": "host", "model": "org/model:v1",
            "model_index": 1, "model_total": 3, "requested_bytes": 1_000_000,
            "allocated_bytes": 1_000_000, "used_bytes": 1_000_000, "worker": "worker-1",
            "severity": "INFO", "outcome": "success",
        }),
    );
    assert!(records[1]["available_bytes"].is_u64() && records[1]["memory_locked"].is_boolean());
    has(
        &records[2],
        json!({
            "shard": "s-0", "allocation": 1, "bytes": 1_000_000, "digest": DIGEST_1_000_000,
            "provenance": "fs_verity", "key_id": key, "read_only": true,
            "sealed_time": handle["sealed_time"],
        }),
    );
    assert_eq!(records[2]["epoch"].as_str().unwrap().len(), 32);
    let verified = |operation, windows: [u64; 2], bytes| {
        json!({
            "operation": operation, "digest": DIGEST_1_000_000, "bytes": bytes,
            "first_window": windows[0], "end_window": windows[1],
        })
    };
    has(&records[3], verified("verify", [0, 2], 1_000_000));
    has(&records[4], verified("reverify", [0, 2], 1_000_000));
    has(
        &records[5],
        verified("verify_window", [1, 2], 1_000_000 - WINDOW),
    );
    has(
        &records[6],
        json!({"freed_bytes": 1_000_000, "used_bytes": 0, "wiped": true, "freed": true}),
    );
    has(&records[7], json!({"live_shards": 0}));
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
    assert_eq!(shard.verify().unwrap().view(), [1; 100]);
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
        shard.load_from(reader, Stream::TreeOnly, go).unwrap_err()
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
    let stopped = shard.load_from(data.as_slice(), Stream::TreeOnly, stop);
    assert!(matches!(stopped, Err(LoadError::Stopped(_))));
    worker
        .faults
        .fail(Operation::Write, 0, Culpability::Inconclusive);
    assert!(matches!(
        load(&mut shard, &mut data.as_slice()),
        LoadError::Device(_)
    ));
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();

    let mut shard = error.into_shard().unwrap();
    shard
        .load_from(data.as_slice(), Stream::TreeOnly, go)
        .unwrap();
    shard
        .seal(Provenance::UnpinnedFirstUse)
        .unwrap()
        .release()
        .unwrap();
    let failed = of_event(&worker.close(), "DeviceFailed");
    assert_eq!(failed.len(), 5);
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

fn load_abc(worker: &Worker, stream: Stream) -> Shard<vram_residency::shard::Allocated, Host> {
    let mut shard = worker.allocated("s", 3);
    shard.load_from(&b"abc"[..], stream, go).unwrap();
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
    shard
        .load_from(&b"abc"[..], Stream::WithSha256, go)
        .unwrap();
    shard.write_at(0, b"a").unwrap();
    let error = shard.seal(provenance).unwrap_err();
    assert!(
        matches!(error, SealError::NoStreamDigest { .. }),
        "a write makes another stream of it"
    );
    let mut shard = error.into_shard().unwrap();
    shard
        .load_from(&b"abc"[..], Stream::WithSha256, go)
        .unwrap();
    shard.seal(provenance).unwrap();
}

#[test]
fn a_write_after_a_load_is_what_gets_sealed() {
    let worker = Worker::new();
    let mut shard = load_abc(&worker, Stream::WithSha256);
    shard.write_at(1, b"B").unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    assert_eq!(shard.verify().unwrap().view(), b"aBc");
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
    assert_eq!(violations[0]["shard"], "s");
    assert_eq!(violations[0]["action"], "refused");
    let shard = error.into_shard().unwrap();
    shard
        .seal(Provenance::FsVerity(DIGEST_1_000_000.parse().unwrap()))
        .unwrap();
}

#[test]
fn a_bad_copy_on_the_way_into_the_device_is_found_at_sealing() {
    let worker = Worker::new();
    let data = pattern(4 << 20);
    let mut shard = worker.allocated("s", 4 << 20);
    worker.faults.corrupt_write(2);
    let loaded = shard
        .load_from(data.as_slice(), Stream::TreeOnly, go)
        .unwrap();
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    let (record, _shard) = broken_seal(&worker, error);
    assert_eq!(record["reason"], "provenance_mismatch");
    assert_eq!(record["expected"], loaded.digest.to_string());
    assert_ne!(record["actual"], record["expected"]);
    // Streams come in chunks of two windows, and the third one was hit at its beginning.
    assert_eq!(record["damaged"], json!([[4, 5]]));
    assert_eq!(record["damaged_windows"], 1);
}

#[test]
fn a_thousand_flipped_bits_are_a_thousand_incidents_in_the_right_window() {
    let worker = Worker::new();
    let data = pattern(2 * WINDOW as usize + 4096 + 13);
    for (offset, bit) in places(data.len() as u64, 1000) {
        let shard = worker.verified("s", &data);
        shard.dangerous_flip_bit(offset, bit).unwrap();
        let error = shard.reverify().unwrap_err();
        assert!(
            matches!(&error, VerifyError::Broken { .. }),
            "missed: bit {bit} of byte {offset}"
        );
        let incident = error.incident().unwrap();
        assert_eq!(incident.reason(), Reason::DigestMismatch);
        let window = offset / WINDOW;
        assert_eq!(
            incident.damaged_windows(),
            [window..window + 1],
            "byte {offset}"
        );
        assert!(incident.is_injected());
        assert!(incident.record().is_ok());
        error.into_shard().unwrap_err().release().unwrap();
    }
    let records = of_event(&worker.close(), "SealVerificationFailed");
    assert_eq!(records.len(), 1000);
    assert!(records.iter().all(|record| record["injected"] == true
        && record["last_verified_time"].is_string()
        && record["last_verified_seq"].is_u64()
        && record["sealed_time"].is_string()
        && record["sealed_seq"].is_u64()));
}

#[test]
fn a_thousand_verifications_without_a_flip_pass() {
    let worker = Worker::new();
    let mut shard = worker.verified("s", &pattern(WINDOW as usize + 1));
    for _ in 0..1000 {
        shard = shard.reverify().unwrap();
    }
    assert!(of_event(&worker.close(), "SealVerificationFailed").is_empty());
}

#[test]
fn a_flip_between_sealing_and_verifying_is_an_incident() {
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(5000));
    shard.dangerous_flip_bit(4999, 3).unwrap();
    let (record, shard) = broken(&worker, shard.verify().unwrap_err());
    assert_eq!(record["reason"], "digest_mismatch");
    assert_eq!(record["operation"], "verify");
    assert_eq!(shard.handle_json()["digest"], record["expected"]);
}

#[test]
fn a_window_check_finds_what_is_in_its_windows() {
    let worker = Worker::new();
    let data = pattern(4 * WINDOW as usize);
    let shard = worker.verified("s", &data);
    shard.dangerous_flip_bit(2 * WINDOW + 5, 0).unwrap();
    let shard = shard.verify_window(0..2).unwrap();
    let (record, _shard) = broken(&worker, shard.verify_window(1..4).unwrap_err());
    assert_eq!(record["reason"], "digest_mismatch");
    assert_eq!(record["operation"], "verify_window");
    assert_eq!(record["damaged"], json!([[2, 3]]));
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
fn windows_that_do_not_exist_give_the_shard_back() {
    let worker = Worker::new();
    let mut shard = worker.verified("s", &pattern(WINDOW as usize + 1));
    for windows in [0..3, 2..3, 1..1, 2..1, 0..u64::MAX] {
        let error = shard.verify_window(windows).unwrap_err();
        assert!(matches!(error, VerifyError::NoSuchWindow { count: 2, .. }));
        shard = error.into_shard().unwrap().verify().unwrap();
    }
}

/// A window is damaged, and then each kept byte in turn: the check must not be talked out of it.
#[test]
fn a_damaged_tree_never_makes_damaged_bytes_pass() {
    let worker = Worker::new();
    let data = pattern(3 * WINDOW as usize);
    let kept = worker.sealed("s", &data).dangerous_tree_bytes();
    assert_eq!(kept, 4 * 32, "three windows and the root");
    for byte in 0..kept {
        let mut shard = worker.verified("s", &data);
        shard.dangerous_flip_tree_bit(byte, (byte % 8) as u8);
        shard.dangerous_flip_bit(WINDOW + 1, 0).unwrap();
        let error = shard.verify_window(1..2).unwrap_err();
        let quarantined = error.into_shard().expect_err("a false pass or a retry");
        quarantined.release().unwrap();

        let mut shard = worker.verified("s", &data);
        shard.dangerous_flip_tree_bit(byte, (byte % 8) as u8);
        let shard = shard
            .reverify()
            .expect("the bytes are right, and a whole check needs no tree");
        shard
            .verify_window(0..3)
            .expect("a whole check puts the tree right");
    }
}

#[test]
fn every_field_that_the_seal_covers_is_checked() {
    let worker = Worker::new();
    for tamper in [
        Tamper::Allocation,
        Tamper::Device,
        Tamper::Digest,
        Tamper::Epoch,
        Tamper::Format,
        Tamper::Key,
        Tamper::KeyId,
        Tamper::Len,
        Tamper::ModelIndex,
        Tamper::ModelName,
        Tamper::ModelTotal,
        Tamper::Provenance,
        Tamper::ProvenanceDigest,
        Tamper::SealedTime,
        Tamper::Shard,
        Tamper::Tag(0),
        Tamper::Tag(255),
        Tamper::Worker,
    ] {
        let mut shard = worker.sealed("s", &pattern(100));
        shard.dangerous_tamper(tamper);
        let (record, shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "signature_invalid", "{tamper:?}");
        assert_eq!(record["injected"], true);
        shard.release().unwrap();
    }
}

#[test]
fn another_shards_seal_is_an_incident_for_both() {
    let worker = Worker::new();
    let mut a = worker.sealed("a", &pattern(100));
    let mut b = worker.sealed("b", &pattern(100));
    assert_eq!(a.digest(), b.digest());
    dangerous_swap_seals(&mut a, &mut b);
    for shard in [a, b] {
        let (record, _shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "signature_invalid");
    }
}

#[test]
fn a_device_that_breaks_is_an_incident_and_one_that_is_busy_is_not() {
    let worker = Worker::new();
    for operation in [Operation::Digest, Operation::Synchronize] {
        let shard = worker.sealed("s", &pattern(100));
        worker.faults.fail(operation, 0, Culpability::Inconclusive);
        let error = shard.verify().unwrap_err();
        assert!(matches!(
            &error,
            VerifyError::Inconclusive {
                source: NoAnswer::Device(_),
                ..
            }
        ));
        let shard = error.into_shard().unwrap();
        worker.faults.fail(operation, 0, Culpability::Broken);
        let (record, shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "device_error");
        assert!(record["detail"].as_str().unwrap().contains("injected"));
        shard.release().unwrap();
    }
    let shard = worker.verified("s", &pattern(100));
    worker
        .faults
        .fail(Operation::Windows, 0, Culpability::Broken);
    let (record, _shard) = broken(&worker, shard.verify_window(0..1).unwrap_err());
    assert_eq!(record["reason"], "device_error");
    let inconclusive = worker.recorded("VerificationInconclusive");
    assert_eq!(inconclusive.len(), 2);
    assert!(
        inconclusive
            .iter()
            .all(|record| record["operation"] == "verify"
                && record["cause"].as_str().unwrap().contains("injected"))
    );
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
        shard.seal(Provenance::UnpinnedFirstUse).unwrap();
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

#[test]
fn stopping_gives_the_shard_back() {
    let worker = Worker::new();
    let data = pattern(3 << 20);
    let shard = worker.sealed("s", &data);
    let error = shard.verify_with_progress(stop).unwrap_err();
    assert!(matches!(
        &error,
        VerifyError::Inconclusive {
            source: NoAnswer::Stopped(_),
            ..
        }
    ));
    let mut calls = 0;
    let shard = error
        .into_shard()
        .unwrap()
        .verify_with_progress(|progress| {
            calls += 1;
            assert!(progress.done <= progress.total && progress.total == 3 << 20);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(calls > 0);
    let error = shard.reverify_with_progress(stop).unwrap_err();
    error.into_shard().unwrap().verify().unwrap();
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 2);
}

fn interrupted(worker: &Worker) -> usize {
    let records = worker.on_disk("SealVerificationFailed");
    assert!(
        records
            .iter()
            .all(|record| record["reason"] == "interrupted")
    );
    records.len()
}

#[test]
fn a_panic_in_the_middle_of_a_verification_is_on_record_and_the_memory_is_freed() {
    let worker = Worker::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for round in 1..=200 {
        let shard = worker.sealed("s", &pattern(100));
        let verify = || shard.verify_with_progress(|_| panic!("on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(verify)).is_err());
        assert_eq!(interrupted(&worker), round);
    }
    let shard = worker.written("s", &pattern(100));
    let seal = || shard.seal_with_progress(Provenance::UnpinnedFirstUse, |_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(seal)).is_err());
    std::panic::set_hook(hook);
    assert_eq!(interrupted(&worker), 201);
    assert_eq!(worker.manager.capacity().live, 0);
}

#[test]
fn an_early_return_in_the_middle_of_a_verification_is_on_record() {
    fn leaves(
        worker: &Worker,
        shard: &Shard<vram_residency::shard::Sealed, Host>,
    ) -> io::Result<()> {
        let _open = shard.dangerous_open_verification();
        Err(io::Error::other(worker.manager.key_id().to_string()))
    }
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(100));
    for round in 1..=200 {
        leaves(&worker, &shard).unwrap_err();
        assert_eq!(interrupted(&worker), round);
    }
}

#[test]
fn a_dropped_future_in_the_middle_of_a_verification_is_on_record() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(100));
    runtime.block_on(async {
        for round in 1..=200 {
            let open = shard.dangerous_open_verification();
            let task = tokio::spawn(async move {
                let _open = open;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(interrupted(&worker), round);
        }
    });
}

#[test]
fn an_id_is_taken_while_its_shard_lives_in_whatever_state() {
    let worker = Worker::new();
    let again = || worker.manager.allocate(id("s"), model(), 10);
    let refused = || matches!(again(), Err(AllocateError::DuplicateId { .. }));
    let shard = worker.written("s", &[1; 10]);
    assert!(refused());
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    shard.dangerous_flip_bit(0, 0).unwrap();
    let shard = shard.verify().unwrap_err().into_shard().unwrap_err();
    assert!(refused());
    let first = shard.allocation();
    shard.release().unwrap();
    assert!(again().unwrap().allocation() > first);
    let failed = worker.recorded("VramAllocationFailed");
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[0]["shard"], "s");
    assert_eq!(failed[0]["requested_bytes"], 10);
    assert_eq!(failed[0]["severity"], "WARN");
    assert!(
        failed[0]["reason"]
            .as_str()
            .unwrap()
            .contains("release it first")
    );
}

#[test]
fn limits_hold_and_every_refusal_is_on_record() {
    let worker = Worker::with(|builder| builder.shard_limit(1000).limit(1500));
    let allocate = |name: &str, len| worker.manager.allocate(id(name), model(), len);
    assert!(matches!(allocate("a", 0), Err(AllocateError::ZeroLength)));
    assert!(matches!(
        allocate("a", 1001),
        Err(AllocateError::TooLarge {
            requested: 1001,
            limit: 1000,
            ..
        })
    ));
    let a = allocate("a", 1000).unwrap();
    assert!(matches!(
        allocate("b", 501),
        Err(AllocateError::NoRoom {
            needed: 501,
            available: 500,
            bound: Bound::ManagerLimit,
            ..
        })
    ));
    let b = allocate("b", 500).unwrap();
    let capacity = worker.manager.capacity();
    assert_eq!(
        (capacity.limit, capacity.used, capacity.available),
        (1500, 1500, 0)
    );
    assert_eq!((capacity.shard_limit, capacity.live), (1000, 2));
    drop(a);
    assert_eq!(worker.manager.capacity().available, 1000);
    worker
        .faults
        .fail(Operation::Allocate, 0, Culpability::Inconclusive);
    assert!(matches!(allocate("a", 10), Err(AllocateError::Device(_))));
    let capacity = worker.manager.capacity();
    assert_eq!((capacity.used, capacity.live), (500, 1));
    drop(b);
    let records = worker.close();
    let failed = of_event(&records, "VramAllocationFailed");
    let requested: Vec<_> = failed
        .iter()
        .map(|record| &record["requested_bytes"])
        .collect();
    assert_eq!(requested, [0, 1001, 501, 10]);
    assert_eq!(failed[2]["available_bytes"], 500);
}

#[test]
fn more_than_the_machine_has_is_refused_with_numbers() {
    let worker = Worker::with(|builder| builder.shard_limit(u64::MAX));
    for len in [1 << 50, u64::MAX] {
        let refused = worker.manager.allocate(id("s"), model(), len);
        let Err(AllocateError::NoRoom {
            needed, available, ..
        }) = refused
        else {
            panic!("{refused:?}")
        };
        assert!(needed == len && available > 0 && available < len);
    }
    assert_eq!(worker.manager.capacity().used, 0);
}

#[test]
fn threads_that_race_for_memory_never_get_more_than_the_limit() {
    let worker = Worker::with(|builder| builder.limit(10 * 4096));
    let got = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let manager = &worker.manager;
                scope.spawn(move || {
                    (0..10)
                        .filter_map(|i| {
                            let name = id(&format!("s-{thread}-{i}"));
                            manager.allocate(name, model(), 4096).ok()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(got.len(), 10);
    assert_eq!(worker.manager.capacity().used, 10 * 4096);
}

#[test]
fn a_shard_can_be_released_in_every_state() {
    let worker = Worker::new();
    let data = pattern(5000);
    worker.allocated("a", 5000).release().unwrap();
    worker.written("b", &data).release().unwrap();
    worker.sealed("c", &data).release().unwrap();
    worker.verified("d", &data).release().unwrap();
    let shard = worker.sealed("e", &data);
    shard.dangerous_flip_bit(0, 0).unwrap();
    let error = shard.verify().unwrap_err();
    error.into_shard().unwrap_err().release().unwrap();
    assert_eq!(worker.manager.capacity().live, 0);
    let freed = of_event(&worker.close(), "VramDeallocated");
    assert_eq!(freed.len(), 5);
    assert!(
        freed
            .iter()
            .all(|record| record["wiped"] == true && record["severity"] == "INFO")
    );
}

#[test]
fn memory_that_is_not_wiped_or_not_freed_is_reported_and_on_record() {
    let worker = Worker::new();
    let shard = worker.verified("s", &pattern(5000));
    worker
        .faults
        .fail(Operation::Wipe, 0, Culpability::Inconclusive);
    assert!(matches!(
        shard.release(),
        Err(ReleaseError::NotWiped { .. })
    ));
    assert_eq!(worker.manager.capacity().used, 0);
    let shard = worker.verified("s", &pattern(5000));
    worker
        .faults
        .fail(Operation::Free, 0, Culpability::Inconclusive);
    assert!(matches!(
        shard.release(),
        Err(ReleaseError::NotFreed { .. })
    ));
    assert_eq!(
        worker.manager.capacity().used,
        5000,
        "it stays accounted for"
    );
    let records = worker.close();
    let failed = of_event(&records, "DeviceFailed");
    assert_eq!(
        (&failed[0]["operation"], &failed[1]["operation"]),
        (&json!("wipe"), &json!("free"))
    );
    let freed = of_event(&records, "VramDeallocated");
    assert_eq!(
        (&freed[0]["wiped"], &freed[0]["freed"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&freed[1]["wiped"], &freed[1]["freed"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(freed[1]["freed_bytes"], 0);
    assert!(freed.iter().all(|record| record["severity"] == "WARN"));
}

fn durable() -> Worker {
    Worker::with_trail(
        |trail| trail.critical_deadline(Duration::from_millis(200)),
        |manager| manager.assurance(Assurance::Durable),
    )
}

#[test]
fn under_durable_assurance_nothing_succeeds_without_its_record() {
    let worker = durable();
    let shard = worker.verified("s", &pattern(100)).release();
    shard.unwrap();
    assert_eq!(
        worker.on_disk("SealVerified").len(),
        1,
        "on disk when it returns"
    );

    let shard = worker.written("s", &pattern(100));
    let full = || {
        worker
            .disk
            .fail(Step::Write, StorageError::NoSpace, 100_000)
    };
    full();
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(error, SealError::Unrecorded { .. }), "{error:?}");
    let refused = worker.manager.allocate(id("t"), model(), 10).unwrap_err();
    assert!(matches!(refused, AllocateError::Unrecorded(_)));
    worker.disk.heal();
    let mut shard = error.into_shard().unwrap();
    shard.write_at(0, &[7]).unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    full();
    let error = shard.verify().unwrap_err();
    assert!(matches!(error, VerifyError::Unrecorded { .. }));
    worker.disk.heal();
    error.into_shard().unwrap().verify().unwrap();
    assert_eq!(worker.manager.capacity().live, 0);
}

#[test]
fn under_queued_assurance_a_full_disk_stops_nothing_but_an_incident_says_so() {
    let worker = Worker::with_trail(
        |trail| trail.critical_deadline(Duration::from_millis(200)),
        |manager| manager,
    );
    worker
        .disk
        .fail(Step::Write, StorageError::NoSpace, 100_000);
    let shard = worker.verified("s", &pattern(100));
    shard.dangerous_flip_bit(0, 0).unwrap();
    let error = shard.reverify().unwrap_err();
    let incident = error.incident().unwrap();
    assert!(incident.record().is_err());
    assert!(incident.to_string().contains("NOT durable"), "{incident}");
    worker.disk.heal();
}

#[test]
fn errors_pass_through_the_question_mark_and_name_no_address() {
    fn all(worker: &Worker) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let shard = worker.sealed("s", &[1; 10]);
        shard.dangerous_flip_bit(0, 0)?;
        let shard = shard.verify()?;
        shard.release()?;
        Ok(())
    }
    let worker = Worker::new();
    let error = all(&worker).unwrap_err();
    let texts = format!("{error} {error:?} {:?}", worker.manager);
    assert!(error.to_string().contains("quarantined"), "{error}");
    assert!(!texts.contains("0x"), "{texts}");
}

#[test]
#[allow(clippy::mem_forget, reason = "that is what is tried")]
fn what_is_forgotten_stays_allocated_once_and_in_the_list_of_live_shards() {
    let worker = Worker::new();
    let data = pattern(100);
    std::mem::forget(worker.allocated("allocated", 100));
    std::mem::forget(worker.sealed("sealed", &data));
    std::mem::forget(worker.verified("verified", &data));
    let shard = worker.sealed("quarantined", &data);
    shard.dangerous_flip_bit(0, 0).unwrap();
    // The error, with incident and shard: its record is durable all the same.
    std::mem::forget(shard.verify().unwrap_err());
    assert_eq!(worker.on_disk("SealVerificationFailed").len(), 1);
    let open = worker.sealed("open", &data).dangerous_open_verification();
    std::mem::forget(open);
    assert_eq!(worker.manager.capacity().used, 400);
    for name in ["allocated", "sealed", "verified", "quarantined"] {
        let second = worker.manager.allocate(id(name), model(), 1);
        assert!(
            matches!(second, Err(AllocateError::DuplicateId { .. })),
            "{name}"
        );
    }
    let Worker {
        place,
        trail,
        manager,
        ..
    } = worker;
    std::mem::forget(manager);
    trail.close().unwrap();
    let closed = of_event(&place.records(), "TrailClosed");
    assert_eq!(closed[0]["live_shards"], 4);
    assert_eq!(closed[0]["live"][3]["shard"], "quarantined");
}

#[test]
fn in_a_forked_child_every_call_is_an_error_and_nothing_is_freed_or_recorded() {
    use std::os::unix::process::CommandExt;
    use vram_residency::error::Revoked;

    let worker = Worker::new();
    let data = pattern(5000);
    let mut allocated = Some(worker.written("a", &data));
    let mut sealed = Some(worker.sealed("b", &data));
    let mut released = Some(worker.sealed("c", &data));
    let shared = worker.verified("d", &data).share();
    let lease = shared.lease().unwrap();
    let Worker {
        place,
        trail,
        manager,
        ..
    } = worker;
    let mut inside = move || {
        let mut writable = allocated.take().unwrap();
        matches!(writable.write_at(0, &[0]), Err(WriteError::Forked(_)))
            && matches!(
                writable.seal(Provenance::UnpinnedFirstUse),
                Err(SealError::Forked { .. })
            )
            && matches!(
                sealed.take().unwrap().verify(),
                Err(VerifyError::Forked { .. })
            )
            && matches!(
                released.take().unwrap().release(),
                Err(ReleaseError::Forked(_))
            )
            && matches!(
                manager.allocate(id("x"), model(), 1),
                Err(AllocateError::Forked(_))
            )
            && matches!(shared.lease(), Err(Revoked::Forked(_)))
            && shared.check().is_err()
            && !lease.is_current()
    };
    let mut command = std::process::Command::new("true");
    // SAFETY: the child runs code that may allocate, which glibc supports after a fork; it takes no
    // lock of the library's, since every call is refused before one.
    unsafe {
        command.pre_exec(move || match inside() {
            true => Ok(()),
            false => Err(io::ErrorKind::Other.into()),
        })
    };
    assert!(
        command
            .status()
            .expect("every call in the child is refused")
            .success()
    );
    drop(command);
    trail.close().unwrap();
    let freed = of_event(&place.records(), "VramDeallocated");
    assert_eq!(freed.len(), 4, "by this process only");
}
