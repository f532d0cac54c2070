//! The end of a trail. A worker that returns early, with `?` for instance, drops what it has in an order that
//! nobody chose. Whatever the order, each record is written, and the last drop writes `TrailClosed`.

use std::any::Any;
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    self, Place, VIOLATION, alone, builder_at, child, manager, model, name_of, of_event, sealed,
};
use vram_residency::audit::{Anchor, AnchorError, Checkpoint, OpenError};
use vram_residency::error::VerifyError;
use vram_residency::shard::Verified;
use vram_residency::{
    AuditTrail, Host, ModelRef, Provenance, Shard, Stream, VramManager, WorkerToken,
};

/// Nothing is missing, and the trail was closed when no shard lived.
#[track_caller]
fn is_closed_and_whole(place: &Place, shards: usize, what: &str) {
    let records = place.records();
    assert_eq!(
        of_event(&records, "VramDeallocated").len(),
        shards,
        "{what}: {records:?}"
    );
    let last = records.last().unwrap();
    assert_eq!(last["event"], "TrailClosed", "{what}");
    assert_eq!(last["live_shards"], 0, "{what}");
    assert!(of_event(&records, "RecordsLost").is_empty(), "{what}");
    let seqs: Vec<u64> = records
        .iter()
        .map(|record| record["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.iter().copied().eq(0..seqs.len() as u64), "{what}");
}

/// What the README's first sample does, from its second line on.
fn sample(trail: AuditTrail, weights: &Path, expected: &str) -> Result<(), Box<dyn Error>> {
    let manager = VramManager::builder(Host::new(), &WorkerToken::generate()?, &trail).build()?;

    let file = File::open(weights)?;
    let model = ModelRef::new("acme/llama-8b", 0, 1)?;
    let mut shard = manager.allocate("llama-8b".parse()?, model, file.metadata()?.len())?;
    shard.load_from(file, Stream::TreeOnly)?;

    let verified = shard
        .seal(Provenance::FsVerity(expected.parse()?))?
        .verify()?;
    verified.release()?;
    trail.close()?;
    Ok(())
}

#[test]
fn a_main_that_returns_its_error_loses_no_record() {
    let place = Place::new();
    let weights = place.temp.path().join("model.safetensors");
    File::create(&weights)
        .and_then(|mut file| file.write_all(&[7; 10_000]))
        .unwrap();
    let trail = place.open();
    let key = trail.verifier_key().clone();

    // The error owns the quarantined shard, and is dropped when manager and trail are gone.
    let error = sample(trail, &weights, &"00".repeat(32)).unwrap_err();
    assert!(of_event(&place.records(), "TrailClosed").is_empty());
    drop(error);

    is_closed_and_whole(&place, 1, "a wrong digest");
    let failed = of_event(&place.records(), "SealVerificationFailed");
    assert_eq!(failed[0]["reason"], "provenance_mismatch");
    assert!(place.verify(&key, &[]).closed);
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for next in 0..count {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
            })
            .collect();
    }
    orders
}

#[test]
fn whatever_the_order_of_dropping_the_last_drop_closes_the_trail() {
    const NAMES: [&str; 5] = ["trail", "manager", "error", "shared", "lease"];
    for order in orders(NAMES.len()) {
        let place = Place::new();
        let trail = place.open();
        let manager = manager(&trail);
        let broken = sealed(&manager, "broken", 5000);
        broken.dangerous_flip_bit(0, 0).unwrap();
        let error: VerifyError<Host> = broken.verify().unwrap_err();
        let shared = sealed(&manager, "served", 5000).verify().unwrap().share();
        let lease = shared.lease().unwrap();
        let mut held: Vec<Option<Box<dyn Any>>> = vec![
            Some(Box::new(trail)),
            Some(Box::new(manager)),
            Some(Box::new(error)),
            Some(Box::new(shared)),
            Some(Box::new(lease)),
        ];
        let what: Vec<_> = order.iter().map(|&index| NAMES[index]).collect();
        let what = what.join(", ");
        for (number, index) in order.into_iter().enumerate() {
            let closed = of_event(&place.records(), "TrailClosed");
            assert!(closed.is_empty(), "{what}: closed before drop {number}");
            drop(held[index].take());
        }
        is_closed_and_whole(&place, 2, &what);
    }
}

#[test]
fn a_manager_without_its_trail_goes_on_recording() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    drop(trail);
    assert!(matches!(
        place.builder().open(),
        Err(OpenError::Locked { .. })
    ));
    let verified = sealed(&manager, "later", 5000).verify().unwrap();
    drop(manager);
    drop(verified);
    is_closed_and_whole(&place, 1, "allocated without the trail's owner");
    place.builder().open().unwrap().close().unwrap();
}

#[test]
fn closing_ends_the_trail_at_once_and_lists_the_shards_that_live() {
    let place = Place::new();
    let trail = place.open();
    let verified = sealed(&manager(&trail), "alive", 5000).verify().unwrap();
    trail.close().unwrap();
    let closed = of_event(&place.records(), "TrailClosed");
    assert_eq!(closed[0]["live"][0]["shard"], "alive");
    let length = place.records().len();
    drop(verified);
    assert_eq!(place.records().len(), length, "written after closing");
}

#[test]
fn a_lease_that_is_never_dropped_leaves_the_trail_open_which_the_next_run_records() {
    let test =
        name_of(a_lease_that_is_never_dropped_leaves_the_trail_open_which_the_next_run_records);
    if let Some(place) = child() {
        let trail = builder_at(&place).open_or_create().unwrap();
        let manager = manager(&trail);
        let shared = sealed(&manager, "served", 5000).verify().unwrap().share();
        Box::leak(Box::new(shared.lease().unwrap()));
        drop((shared, manager, trail));
        return;
    }
    let place = Place::new();
    let output = support::child_command(test, place.temp.path())
        .output()
        .unwrap();
    support::ran_well(&output);
    let records = place.records();
    assert!(of_event(&records, "TrailClosed").is_empty());
    // What dropping the manager waited for is there.
    assert_eq!(of_event(&records, "SealVerified").len(), 1);
    let trail = place.builder().open().unwrap();
    trail.close().unwrap();
    assert_eq!(of_event(&place.records(), "TailRecovered").len(), 1);
}

/// Keeps nothing; drops a shard while it is called, when the test says so.
struct Dropping {
    shard: Arc<Mutex<Option<Shard<Verified, Host>>>>,
    now: Receiver<()>,
}

impl Anchor for Dropping {
    fn name(&self) -> &str {
        "dropping"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        let shard = self.shard.lock().unwrap().take();
        if shard.is_some() {
            self.now.recv().unwrap();
        }
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

#[test]
fn an_anchor_that_drops_the_last_shard_does_not_wait_for_itself() {
    alone(|place| {
        let (drop_it, now) = channel();
        let slot = Arc::new(Mutex::new(None));
        let deadline = Duration::from_secs(20);
        let trail = builder_at(place)
            .critical_deadline(deadline)
            .anchor(Dropping {
                shard: Arc::clone(&slot),
                now,
            })
            .open_or_create()
            .unwrap();
        let key = trail.verifier_key().clone();
        let manager = manager(&trail);
        let verified = sealed(&manager, "last", 5000).verify().unwrap();
        *slot.lock().unwrap() = Some(verified);
        trail.policy_violation(VIOLATION).unwrap();
        while slot.lock().unwrap().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop((manager, trail));
        let started = Instant::now();
        drop_it.send(()).unwrap();
        let dir = place.join("trail");
        while !vram_residency::audit::verify(&dir, std::slice::from_ref(&key), &[]).closed {
            assert!(started.elapsed() < deadline / 2, "closing waits for itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        let gone = of_event(&support::records(&dir), "VramDeallocated");
        assert_eq!(gone.len(), 1);
    });
}

#[test]
fn a_trail_that_is_dropped_while_its_thread_panics_is_closed_by_the_last_shard() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let mut shard = manager
        .allocate("s".parse().unwrap(), model(), 4096)
        .unwrap();
    shard.write_at(0, &[1; 4096]).unwrap();
    let panicked = std::thread::spawn(move || {
        let _held = (shard, manager, trail);
        panic!("the worker's own bug");
    });
    assert!(panicked.join().is_err());
    is_closed_and_whole(&place, 1, "a panic");
}
