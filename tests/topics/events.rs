//! Every event that the library can record now, made to happen, with exactly the fields, severity
//! and outcome that the table in each test says. A reviewer's queries rest on these names.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::backend::{Device, FREES_UNWIPED, allocated_bytes, device, device_with};
use crate::support::fields::{expect, one};
use crate::support::{Place, filled, model, of_event, sealed};
use serde_json::{Value, json};
use vram_residency::device::{Culpability, Faults, Operation};
use vram_residency::seal::Tamper;
use vram_residency::{AuditTrail, Digest, Provenance, Stream, VramManager, WorkerToken};

const LEN: usize = 1_500_000;
const SUBJECT: &str = "shard allocation device";
const MODEL: &str = "model model_index model_total";

#[track_caller]
fn is_hex(value: &Value, digits: usize) {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), digits, "{text}");
    assert!(
        text.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
}

/// A trail, and a manager whose device fails on demand.
struct Stage {
    place: Place,
    faults: Faults,
    trail: AuditTrail,
    manager: VramManager<Device>,
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        let faults = Faults::dangerous_new();
        let trail = place.open();
        let token = WorkerToken::generate().unwrap();
        let host = device_with(faults.clone());
        let manager = VramManager::builder(host, &token, &trail).build().unwrap();
        Self {
            place,
            faults,
            trail,
            manager,
        }
    }

    fn records(&self) -> Vec<Value> {
        self.trail.flush().unwrap();
        self.place.records()
    }
}

#[test]
fn the_life_of_a_shard() {
    let stage = Stage::new();
    let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    let digest = Digest::of_reader(&bytes[..]).unwrap();
    let mut shard = stage
        .manager
        .allocate("a".parse().unwrap(), model(), LEN as u64)
        .unwrap();
    let loaded = shard.load_from(&bytes[..], Stream::WithSha256).unwrap();
    let sha256 = loaded.sha256.unwrap();
    let shard = shard.seal(Provenance::Sha256(sha256)).unwrap();
    let shard = shard.verify().unwrap().verify_window(1..3).unwrap();
    shard.release().unwrap();

    let records = stage.records();
    let subject = json!(["a", 1, crate::backend::NAME]);
    let part = |record: &Value| {
        json!([
            record["model"],
            record["model_index"],
            record["model_total"]
        ])
    };
    let who = |record: &Value| json!([record["shard"], record["allocation"], record["device"]]);

    let fields = "requested_bytes allocated_bytes available_bytes used_bytes memory_locked";
    let allocated = one(
        &records,
        "VramAllocated",
        "INFO success",
        &[SUBJECT, MODEL, fields],
    );
    assert_eq!(who(&allocated), subject);
    assert_eq!(part(&allocated), json!(["model", 0, 1]));
    assert_eq!(allocated["requested_bytes"], LEN);
    assert_eq!(allocated["allocated_bytes"], allocated_bytes(LEN));
    assert_eq!(allocated["used_bytes"], LEN);
    assert!(allocated["available_bytes"].is_u64() && allocated["memory_locked"].is_boolean());

    let fields =
        "bytes digest provenance stream_sha256 sealed_time key_id token_access epoch read_only";
    let sealed = one(
        &records,
        "VramSealed",
        "INFO success",
        &[SUBJECT, MODEL, fields],
    );
    assert_eq!(who(&sealed), subject);
    assert_eq!(part(&sealed), json!(["model", 0, 1]));
    assert_eq!(sealed["bytes"], LEN);
    assert_eq!(sealed["digest"], digest.to_string());
    assert_eq!(sealed["provenance"], "sha256");
    assert_eq!(sealed["stream_sha256"], sha256.to_string());
    assert_eq!(sealed["key_id"], stage.manager.key_id().to_string());
    assert_eq!(sealed["read_only"], true);
    is_hex(&sealed["epoch"], 32);
    assert!(sealed["sealed_time"].as_str() <= sealed["time"].as_str());

    let verified = of_event(&records, "SealVerified");
    assert_eq!(verified.len(), 2);
    for (record, operation, windows, bytes) in [
        (&verified[0], "verify", json!([0, 3]), LEN),
        (
            &verified[1],
            "verify_window",
            json!([1, 3]),
            LEN - (512 << 10),
        ),
    ] {
        let fields = "operation digest first_window end_window bytes";
        expect(record, "INFO success", &[SUBJECT, fields]);
        assert_eq!(who(record), subject);
        assert_eq!(record["operation"], operation);
        assert_eq!(record["digest"], digest.to_string());
        assert_eq!(
            json!([record["first_window"], record["end_window"]]),
            windows
        );
        assert_eq!(record["bytes"], bytes);
    }

    let fields = "freed_bytes used_bytes wiped freed inherited";
    let freed = one(
        &records,
        "VramDeallocated",
        "INFO success",
        &[SUBJECT, fields],
    );
    assert_eq!(who(&freed), subject);
    assert_eq!(
        json!([freed["freed_bytes"], freed["used_bytes"]]),
        json!([LEN, 0])
    );
    let outcome = json!([freed["wiped"], freed["freed"], freed["inherited"]]);
    assert_eq!(outcome, json!([true, true, false]));
}

#[test]
fn sealing_with_each_provenance() {
    let stage = Stage::new();
    let shard = filled(&stage.manager, "unpinned", LEN);
    let digest = shard.seal(Provenance::UnpinnedFirstUse).unwrap().digest();
    let shard = filled(&stage.manager, "pinned", LEN);
    drop(shard.seal(Provenance::FsVerity(digest)).unwrap());
    let fields = "bytes digest provenance sealed_time key_id token_access epoch read_only";
    let sealed = of_event(&stage.records(), "VramSealed");
    for (record, provenance) in sealed.iter().zip(["unpinned_first_use", "fs_verity"]) {
        expect(record, "INFO success", &[SUBJECT, MODEL, fields]);
        assert_eq!(record["provenance"], provenance);
        assert_eq!(record["digest"], digest.to_string());
    }
    assert_eq!(sealed.len(), 2);
}

#[test]
fn an_allocation_that_fails() {
    let stage = Stage::new();
    let ask = |id: &str, len| stage.manager.allocate(id.parse().unwrap(), model(), len);
    let live = ask("live", 1).unwrap();
    let errors = [
        ask("zero", 0).unwrap_err(),
        ask("large", u64::MAX).unwrap_err(),
        ask("live", 1).unwrap_err(),
    ];
    stage
        .faults
        .fail(Operation::Allocate, 0, Culpability::Broken);
    let device = ask("device", 1).unwrap_err();
    drop(live);
    let failed = of_event(&stage.records(), "VramAllocationFailed");
    assert_eq!(failed.len(), 4);
    let asked = [("zero", 0), ("large", u64::MAX), ("live", 1), ("device", 1)];
    let reasons = errors.iter().chain([&device]).map(ToString::to_string);
    for ((record, (shard, bytes)), reason) in failed.iter().zip(asked).zip(reasons) {
        let fields = "shard device requested_bytes available_bytes reason";
        expect(record, "WARN failure", &[fields]);
        assert_eq!(
            json!([record["shard"], record["device"]]),
            json!([shard, crate::backend::NAME])
        );
        assert_eq!(record["requested_bytes"], bytes);
        assert!(record["available_bytes"].is_u64());
        assert_eq!(record["reason"], reason);
    }
}

const FAILURE: &str = "reason operation damaged_windows damaged injected";
const SEALED_AT: &str = "sealed_seq sealed_time";
const VERIFIED_AT: &str = "last_verified_seq last_verified_time";

/// The failure's history names the very records, and the times that they carry.
#[track_caller]
fn expect_history(failure: &Value, records: &[Value]) {
    let allocation = &failure["allocation"];
    let last = |event: &str| {
        let found = of_event(records, event);
        let earlier = |r: &&Value| {
            r["allocation"] == *allocation && r["seq"].as_u64() < failure["seq"].as_u64()
        };
        found.iter().rfind(earlier).cloned()
    };
    let sealed = last("VramSealed").unwrap();
    assert_eq!(failure["sealed_seq"], sealed["seq"]);
    assert_eq!(failure["sealed_time"], sealed["sealed_time"]);
    let verified = last("SealVerified").unwrap_or(Value::Null);
    assert_eq!(failure["last_verified_seq"], verified["seq"]);
    assert_eq!(failure["last_verified_time"], verified["time"]);
}

#[test]
fn a_digest_mismatch() {
    let stage = Stage::new();
    // At first verification, in the first and the last of three windows.
    let shard = sealed(&stage.manager, "a", LEN);
    let digest = shard.digest().to_string();
    shard.dangerous_flip_bit(0, 0).unwrap();
    shard.dangerous_flip_bit(LEN as u64 - 1, 7).unwrap();
    let error = shard.verify().unwrap_err();
    let incident = error.incident().unwrap();
    // Later, when there is a last verification to name.
    let shard = sealed(&stage.manager, "b", LEN).verify().unwrap();
    shard.dangerous_flip_bit(600_000, 1).unwrap();
    drop(shard.reverify().unwrap_err());
    let shared = sealed(&stage.manager, "c", LEN).verify().unwrap().share();
    shared.check().unwrap();
    shared.dangerous_flip_bit(600_000, 1).unwrap();
    drop(shared.check_window(0..2).unwrap_err());

    let records = stage.records();
    let failed = of_event(&records, "SealVerificationFailed");
    assert_eq!(failed.len(), 3);
    let first = &failed[0];
    let digests = "expected actual";
    expect(
        first,
        "CRITICAL failure",
        &[SUBJECT, FAILURE, digests, SEALED_AT],
    );
    assert_eq!(first["actual"], incident.actual().unwrap());
    assert_eq!(first["damaged"], json!([[0, 1], [2, 3]]));
    assert_eq!(first["damaged_windows"], 2);
    assert_eq!(first["seq"], incident.record().unwrap().seq().value());
    for (later, operation) in failed[1..].iter().zip(["reverify", "check_window"]) {
        let fields = [SUBJECT, FAILURE, digests, SEALED_AT, VERIFIED_AT];
        expect(later, "CRITICAL failure", &fields);
        assert_eq!(later["operation"], operation);
        assert_eq!(later["damaged"], json!([[1, 2]]));
        assert_eq!(later["damaged_windows"], 1);
    }
    for failure in &failed {
        assert_eq!(failure["reason"], "digest_mismatch");
        assert_eq!(failure["expected"], digest);
        assert_ne!(failure["actual"], digest);
        is_hex(&failure["actual"], 64);
        assert_eq!(failure["injected"], true);
        expect_history(failure, &records);
    }
}

#[test]
fn a_wrong_signature_a_broken_device_and_an_interruption() {
    let stage = Stage::new();
    let mut shard = sealed(&stage.manager, "signature", LEN);
    shard.dangerous_tamper(Tamper::Tag(0));
    drop(shard.verify().unwrap_err());

    let shard = sealed(&stage.manager, "device", LEN);
    stage.faults.fail(Operation::Digest, 0, Culpability::Broken);
    drop(shard.verify().unwrap_err());

    let shard = sealed(&stage.manager, "left", LEN).verify().unwrap();
    stage.faults.panic(Operation::Digest, 0);
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shard.reverify()));
    assert!(left.is_err());

    let records = stage.records();
    let failed = of_event(&records, "SealVerificationFailed");
    let reasons: Vec<&Value> = failed.iter().map(|failure| &failure["reason"]).collect();
    assert_eq!(
        reasons,
        ["signature_invalid", "device_error", "interrupted"]
    );
    let injected = [SUBJECT, FAILURE, "detail", SEALED_AT];
    expect(&failed[0], "CRITICAL failure", &injected);
    expect(&failed[1], "CRITICAL failure", &injected);
    assert!(failed[1]["detail"].as_str().unwrap().contains("injected"));
    let history = [SUBJECT, FAILURE, SEALED_AT, VERIFIED_AT];
    expect(&failed[2], "CRITICAL failure", &history);
    assert_eq!(failed[2]["operation"], "reverify");
    for failure in &failed {
        assert_eq!(
            json!([failure["damaged"], failure["damaged_windows"]]),
            json!([[], 0])
        );
        expect_history(failure, &records);
    }
}

#[test]
fn a_provenance_mismatch() {
    let stage = Stage::new();
    let wrong: Digest = "5a".repeat(32).parse().unwrap();
    let shard = filled(&stage.manager, "pinned", LEN);
    drop(shard.seal(Provenance::FsVerity(wrong)).unwrap_err());

    // A bad copy: what arrived is not what the stream was.
    let bytes = vec![7; LEN];
    let mut shard = stage
        .manager
        .allocate("copied".parse().unwrap(), model(), LEN as u64)
        .unwrap();
    stage.faults.corrupt_write(0);
    shard.load_from(&bytes[..], Stream::TreeOnly).unwrap();
    drop(shard.seal(Provenance::UnpinnedFirstUse).unwrap_err());

    let failed = of_event(&stage.records(), "SealVerificationFailed");
    assert_eq!(failed.len(), 2);
    let fields = "reason operation damaged_windows damaged expected actual";
    expect(&failed[0], "CRITICAL failure", &[SUBJECT, fields]);
    assert_eq!(failed[0]["expected"], wrong.to_string());
    let injected = [SUBJECT, fields, "detail injected"];
    expect(&failed[1], "CRITICAL failure", &injected);
    let right = Digest::of_reader(&bytes[..]).unwrap().to_string();
    assert_eq!(failed[1]["expected"], right);
    // At the beginning of the chunk that was copied first, whichever that was.
    assert!([json!([[0, 1]]), json!([[2, 3]])].contains(&failed[1]["damaged"]));
    for failure in &failed {
        assert_eq!(failure["reason"], "provenance_mismatch");
        assert_eq!(failure["operation"], "seal");
    }
}

#[test]
fn a_verification_without_an_answer_and_one_that_is_overdue() {
    let stage = Stage::new();
    let shard = sealed(&stage.manager, "a", LEN);
    stage
        .faults
        .fail(Operation::Digest, 0, Culpability::Inconclusive);
    let error = shard.verify().unwrap_err();
    let shard = error.into_shard().unwrap();
    let stopped = shard.verify_with_progress(|_| ControlFlow::Break(()));
    drop(stopped.unwrap_err());
    let records = stage.records();
    let unanswered = of_event(&records, "VerificationInconclusive");
    assert_eq!(unanswered.len(), 2);
    for (record, cause) in unanswered.iter().zip(["injected", "stop"]) {
        expect(record, "WARN failure", &[SUBJECT, "operation cause"]);
        assert_eq!(record["operation"], "verify");
        assert!(
            record["cause"].as_str().unwrap().contains(cause),
            "{record}"
        );
    }

    let token = WorkerToken::generate().unwrap();
    let manager = VramManager::builder(device(), &token, &stage.trail)
        .max_age(Duration::from_millis(20))
        .build()
        .unwrap();
    let shared = sealed(&manager, "b", LEN).verify().unwrap().share();
    std::thread::sleep(Duration::from_millis(30));
    shared.lease().unwrap_err();
    let records = stage.records();
    let history = [SUBJECT, SEALED_AT, VERIFIED_AT, "max_age_ms"];
    let overdue = one(
        &records,
        "VerificationOverdue",
        "CRITICAL failure",
        &history,
    );
    assert_eq!(
        json!([overdue["shard"], overdue["max_age_ms"]]),
        json!(["b", 20])
    );
    expect_history(&overdue, &records);
}

#[test]
fn a_device_that_fails() {
    let stage = Stage::new();
    let mut shard = filled(&stage.manager, "a", LEN);
    stage.faults.fail(Operation::Write, 0, Culpability::Broken);
    shard.write_at(0, &[1]).unwrap_err();
    shard.load_from(&[0; 10][..], Stream::TreeOnly).unwrap_err();
    // It is tried twice.
    stage.faults.fail(Operation::Wipe, 0, Culpability::Broken);
    stage.faults.fail(Operation::Wipe, 0, Culpability::Broken);
    shard.release().unwrap_err();
    let shard = filled(&stage.manager, "b", LEN);
    stage
        .faults
        .fail(Operation::Free, 0, Culpability::Inconclusive);
    shard.release().unwrap_err();

    let records = stage.records();
    let failed = of_event(&records, "DeviceFailed");
    let operations: Vec<&Value> = failed.iter().map(|failure| &failure["operation"]).collect();
    let mut expected = vec!["write", "load", "wipe", "wipe", "free"];
    if !FREES_UNWIPED {
        expected.push("free");
    }
    assert_eq!(operations, expected);
    for failure in &failed {
        expect(failure, "WARN failure", &[SUBJECT, "operation cause"]);
        assert!(!failure["cause"].as_str().unwrap().is_empty());
    }
    let freed = of_event(&records, "VramDeallocated");
    let outcomes: Vec<Value> = freed
        .iter()
        .map(|r| json!([r["wiped"], r["freed"], r["freed_bytes"], r["used_bytes"]]))
        .collect();
    let expected = match FREES_UNWIPED {
        true => [json!([false, true, LEN, 0]), json!([true, false, 0, LEN])],
        false => [
            json!([false, false, 0, LEN]),
            json!([true, false, 0, 2 * LEN]),
        ],
    };
    assert_eq!(outcomes, expected);
    for record in &freed {
        let fields = "freed_bytes used_bytes wiped freed inherited";
        expect(record, "WARN failure", &[SUBJECT, fields]);
    }
}
