//! Verifications that are left in the middle: by a panic, by an early return, by a future that is
//! dropped. Each is on disk as `interrupted` by the time that whoever left it can look, without a
//! flush; and a verification on a blocking thread ends whatever becomes of its future.

use std::future::Future;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::{Device, manager};
use crate::support::{Place, filled, of_event, records, sealed, segments};
use serde_json::Value;
use vram_residency::audit::Outcome;
use vram_residency::digest::Progress;
use vram_residency::error::Revoked;
use vram_residency::shard::{Sealed, Shard};
use vram_residency::{AuditTrail, Provenance, VramManager};

const LEN: usize = 200_000;
/// In each of five tests: 200 in all.
const TIMES: usize = 40;

/// As a callback with a bug would, in the middle.
fn bug(progress: Progress) -> ControlFlow<()> {
    panic!("on purpose, after {} bytes", progress.done);
}

fn panics<T>(action: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(action)).is_err());
}

/// How many records say `interrupted` now. Everything is on one line, as the format has it.
fn interrupted(dir: &Path) -> usize {
    segments(dir)
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.matches("\"reason\":\"interrupted\"").count()
        })
        .sum()
}

fn last_failure(dir: &Path) -> Value {
    of_event(&records(dir), "SealVerificationFailed")
        .pop()
        .unwrap()
}

/// Does something to a new shard, again and again, and looks on the disk each time.
fn each_is_on_record(
    operation: &str,
    mut leave: impl FnMut(&VramManager<Device>, Shard<Sealed, Device>),
) {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    let manager = manager(&trail);
    for done in 1..=TIMES {
        leave(&manager, sealed(&manager, &format!("shard-{done}"), LEN));
        assert_eq!(interrupted(&place.dir()), done, "{operation}");
    }
    let failure = last_failure(&place.dir());
    assert_eq!(failure["operation"], operation);
    assert_eq!(failure["severity"], "CRITICAL");
    assert!(failure.get("actual").is_none(), "nobody finished reading");
    drop(manager);
    let receipt = trail.close().unwrap();
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    // No memory is left behind either: the shard was wiped while the stack unwound.
    let closed = of_event(&place.records(), "TrailClosed");
    assert_eq!(closed[0]["live_shards"], 0);
}

#[test]
fn a_panic_in_the_middle_of_a_verification_is_recorded() {
    each_is_on_record("verify", |_, shard| {
        panics(|| shard.verify_with_progress(bug));
    });
}

#[test]
fn a_panic_in_the_middle_of_a_check_is_recorded_and_revokes() {
    each_is_on_record("check", |_, shard| {
        let shared = shard.verify().unwrap().share();
        let lease = shared.lease().unwrap();
        panics(|| shared.check_with_progress(bug));
        assert!(!lease.is_current());
        assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    });
}

#[test]
fn an_early_return_in_the_middle_of_a_verification_is_recorded() {
    fn gives_up(shard: &Shard<Sealed, Device>) -> Result<(), std::fmt::Error> {
        let _open = shard.dangerous_open_verification();
        Err(std::fmt::Error)?;
        Ok(())
    }
    each_is_on_record("verify", |_, shard| {
        gives_up(&shard).unwrap_err();
        assert!(shard.verify().is_ok(), "its bytes are as good as before");
    });
}

#[test]
fn a_future_that_is_dropped_in_the_middle_of_a_verification_is_recorded() {
    each_is_on_record("verify", |_, shard| {
        let verification = async {
            let _open = shard.dangerous_open_verification();
            std::future::pending::<()>().await;
        };
        let mut context = Context::from_waker(Waker::noop());
        let mut verification = Box::pin(verification);
        let polled = verification.as_mut().poll(&mut context);
        assert_eq!(polled, Poll::Pending);
        drop(verification);
    });
}

#[test]
fn a_task_that_is_aborted_in_the_middle_of_a_verification_is_recorded() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    each_is_on_record("verify", |_, shard| {
        runtime.block_on(async {
            let (begun, begins) = std::sync::mpsc::channel();
            let task = tokio::spawn(async move {
                let _open = shard.dangerous_open_verification();
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            begins.recv().unwrap(); // the task runs on another thread
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        });
    });
}

#[test]
fn panics_while_sealing_and_verifying_again_are_recorded() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let shard = filled(&manager, "a", LEN);
    panics(|| shard.seal_with_progress(Provenance::UnpinnedFirstUse, bug));
    assert_eq!(last_failure(&place.dir())["operation"], "seal");
    let shard = sealed(&manager, "a", LEN).verify().unwrap();
    panics(|| shard.reverify_with_progress(bug));
    let failure = last_failure(&place.dir());
    assert_eq!(failure["operation"], "reverify");
    assert!(failure["sealed_seq"].as_u64() < failure["last_verified_seq"].as_u64());
}

/// A broken shard that takes milliseconds to verify.
fn broken(manager: &VramManager<Device>, id: &str) -> Shard<Sealed, Device> {
    let len = 100 * LEN;
    let shard = sealed(manager, id, len);
    shard.dangerous_flip_bit(len as u64 - 1, 0).unwrap();
    shard
}

fn wait_for_failures(trail: &AuditTrail, place: &Place, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while of_event(&place.records(), "SealVerificationFailed").len() < count {
        assert!(Instant::now() < deadline, "{:?}", trail.counts());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whatever_becomes_of_its_future_a_blocking_verification_is_recorded() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let shard = broken(&manager, "handle-dropped");
        drop(tokio::task::spawn_blocking(move || {
            shard.verify().map(drop)
        }));

        let shard = broken(&manager, "timed-out");
        let verification = tokio::task::spawn_blocking(move || shard.verify().map(drop));
        let outcome = tokio::time::timeout(Duration::ZERO, verification).await;
        assert!(outcome.is_err(), "it was to be too slow");

        let shard = broken(&manager, "polled-once");
        let verification = tokio::task::spawn_blocking(move || shard.verify().map(drop));
        let mut verification = pin!(verification);
        let mut context = Context::from_waker(Waker::noop());
        assert!(verification.as_mut().poll(&mut context).is_pending());
    });
    wait_for_failures(&trail, &place, 3);

    let shard = broken(&manager, "runtime-gone");
    let (begun, begins) = std::sync::mpsc::channel();
    runtime.spawn_blocking(move || {
        begun.send(()).unwrap();
        shard.verify().map(drop)
    });
    // A task that has not begun would be dropped with the runtime, and its shard with it, unread.
    begins.recv().unwrap();
    runtime.shutdown_background();
    wait_for_failures(&trail, &place, 4);
    for failure in of_event(&place.records(), "SealVerificationFailed") {
        assert_eq!(failure["reason"], "digest_mismatch");
    }
}

/// The other case, as the README says it: nothing is read, so nothing is said about the bytes.
#[test]
fn a_blocking_verification_that_never_starts_only_gives_its_memory_back() {
    let place = Place::new();
    let trail = place.open();
    let manager = manager(&trail);
    let shard = sealed(&manager, "waiting", LEN);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    drop(handle.spawn_blocking(move || shard.verify().map(drop)));
    let patience = Instant::now() + Duration::from_secs(5);
    while manager.capacity().live > 0 {
        assert!(Instant::now() < patience, "the shard is kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    trail.flush().unwrap();
    let events: Vec<String> = place
        .records()
        .iter()
        .filter(|record| record["shard"] == "waiting")
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["VramAllocated", "VramSealed", "VramDeallocated"]);
}
