//! Values that are forgotten: safe code can keep any destructor from running. No promise rests on
//! one. A forgotten error is on disk already; forgotten memory keeps its owner, its name and its
//! place in the accounts, and closing the trail says that it is there.

#![allow(
    clippy::mem_forget,
    reason = "what must hold when it is used is shown here"
)]

use std::mem::forget;
use std::time::{Duration, Instant};

use crate::backend::{Device, device, manager};
use crate::support::{Place, filled, model, of_event, sealed};
use serde_json::{Value, json};
use vram_residency::audit::{OpenError, Outcome, PolicyViolation};
use vram_residency::error::{AllocateError, ReclaimError, SealError, VerifyError};
use vram_residency::{Provenance, VramManager, WorkerToken};

const LEN: usize = 5_000;

fn taken(manager: &VramManager<Device>, id: &str) -> bool {
    match manager.allocate(id.parse().unwrap(), model(), 1) {
        Err(AllocateError::DuplicateId { .. }) => true,
        Ok(_) => false,
        Err(other) => panic!("{other}"),
    }
}

fn live(closed: &Value) -> Vec<&str> {
    let shards = closed["live"].as_array().unwrap();
    shards
        .iter()
        .map(|shard| shard["shard"].as_str().unwrap())
        .collect()
}

#[test]
fn forgotten_memory_keeps_its_owner_and_closing_says_so() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    forget(filled(&manager, "allocated", LEN));
    forget(sealed(&manager, "sealed", LEN));
    forget(sealed(&manager, "verified", LEN).verify().unwrap());
    forget(sealed(&manager, "shared", LEN).verify().unwrap().share());

    let broken = sealed(&manager, "quarantined", LEN);
    broken.dangerous_flip_bit(0, 0).unwrap();
    forget(broken.verify().unwrap_err().into_shard().unwrap_err());

    let leased = sealed(&manager, "leased", LEN).verify().unwrap().share();
    forget(leased.lease().unwrap());
    let error = leased.reclaim().unwrap_err();
    assert!(matches!(error, ReclaimError::Leased { .. }), "{error}");
    drop(error);

    let ids = [
        "allocated",
        "sealed",
        "verified",
        "shared",
        "quarantined",
        "leased",
    ];
    for id in ids {
        assert!(taken(&manager, id), "{id} has two owners");
    }
    assert!(!taken(&manager, "another"));
    let capacity = manager.capacity();
    assert_eq!((capacity.live, capacity.used), (6, 6 * LEN as u64));

    drop(manager);
    trail.close().unwrap();
    let records = place.records();
    let closed = &of_event(&records, "TrailClosed")[0];
    assert_eq!(live(closed), ids);
    assert_eq!(closed["live_shards"], 6);
    assert_eq!(
        closed["live"][0],
        json!({"shard": "allocated", "allocation": 1, "device": crate::backend::NAME, "bytes": LEN})
    );
    let freed = of_event(&records, "VramDeallocated");
    assert_eq!(freed.len(), 1, "only `another` was freed: {freed:?}");
}

#[test]
fn a_forgotten_shard_is_out_of_reach_for_the_next_run() {
    let place = Place::new();
    let trail = place.open();
    forget(sealed(&manager(&trail), "a", LEN));
    trail.close().unwrap();
    // The process lives on, and so does the memory: a new trail does not know that name.
    let trail = place.open();
    let manager = manager(&trail);
    let shard = sealed(&manager, "a", LEN);
    assert_eq!(
        crate::backend::bytes(shard.verify().unwrap().view())[250],
        250
    );
}

#[test]
fn a_forgotten_error_is_on_disk_already() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);

    let shard = sealed(&manager, "verify", LEN);
    shard.dangerous_flip_bit(0, 0).unwrap();
    let error = shard.verify().unwrap_err();
    assert!(matches!(error, VerifyError::Broken { .. }));
    forget(error);

    let wrong = "00".repeat(32).parse().unwrap();
    let error = filled(&manager, "seal", LEN)
        .seal(Provenance::FsVerity(wrong))
        .unwrap_err();
    assert!(matches!(error, SealError::Broken { .. }));
    forget(error);

    let shared = sealed(&manager, "check", LEN).verify().unwrap().share();
    let lease = shared.lease().unwrap();
    shared.dangerous_flip_bit(1, 1).unwrap();
    forget(shared.check().unwrap_err());
    assert!(!lease.is_current() && shared.lease().is_err());
    forget(shared.reclaim().unwrap_err());

    let shard = sealed(&manager, "incident", LEN);
    shard.dangerous_flip_bit(0, 0).unwrap();
    if let Err(VerifyError::Broken(broken)) = shard.verify() {
        forget(broken.into_parts().0);
    }
    let failures = of_event(&place.records(), "SealVerificationFailed");
    let shards: Vec<_> = failures.iter().map(|failure| &failure["shard"]).collect();
    assert_eq!(shards, ["verify", "seal", "check", "incident"]);
}

/// The value that would have recorded `interrupted` is the only thing that is lost: no error and no
/// view came out of it, and the shard is as it was.
#[test]
fn a_forgotten_verification_proves_nothing() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let shard = sealed(&manager, "a", LEN);
    forget(shard.dangerous_open_verification());
    forget(async { shard.dangerous_open_verification() });
    let handle = serde_json::to_value(shard.handle()).unwrap();
    assert_eq!(handle["state"], "sealed");
    shard.dangerous_flip_bit(3, 3).unwrap();
    let failed = shard.verify().unwrap_err();
    assert!(failed.incident().unwrap().record().is_ok());
}

#[test]
fn nobody_can_check_a_forgotten_share_and_its_leases_end() {
    let place = Place::new();
    let trail = place.open();
    let manager = VramManager::builder(device(), &WorkerToken::generate().unwrap(), &trail)
        // Long enough to ask for a lease before, on a slow machine too.
        .max_age(Duration::from_millis(1500))
        .build()
        .unwrap();
    let shared = sealed(&manager, "a", LEN).verify().unwrap().share();
    let lease = shared.lease().unwrap();
    assert!(lease.is_current());
    forget(shared);
    let deadline = Instant::now() + Duration::from_secs(10);
    while of_event(&place.records(), "VerificationOverdue").is_empty() {
        assert!(Instant::now() < deadline, "nobody noticed");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!lease.is_current());
}

#[test]
fn forgotten_receipts_managers_and_builders_change_nothing() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    let violation = PolicyViolation {
        policy: "p",
        violation: "v",
        details: "d",
        action: "a",
    };
    forget(trail.policy_violation(violation).unwrap());
    forget(trail.checkpoint());
    forget(place.builder());
    let token = WorkerToken::generate().unwrap();
    forget(VramManager::builder(device(), &token, &trail));
    let manager = manager(&trail);
    let shard = sealed(&manager, "a", LEN);
    forget(shard.handle());
    forget(manager);
    shard.verify().unwrap().release().unwrap();

    let receipt = trail.close().unwrap();
    let anchor = receipt.checkpoint().clone();
    forget(receipt);
    let records = place.records();
    assert_eq!(of_event(&records, "PolicyViolation").len(), 1);
    assert_eq!(of_event(&records, "VramDeallocated")[0]["wiped"], true);
    let report = place.verify(&key, &[anchor]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for);
}

#[test]
fn a_forgotten_trail_keeps_its_directory_and_writes_what_it_was_given() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    let shard = sealed(&manager(&trail), "a", LEN);
    forget(trail);
    let error = place.builder().open_or_create().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    shard.dangerous_flip_bit(0, 0).unwrap();
    let failed = shard.verify().unwrap_err();
    assert!(failed.incident().unwrap().record().is_ok());
    let report = place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(!report.closed);
}
