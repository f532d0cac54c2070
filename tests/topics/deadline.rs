//! Checks that take longer than they may: callbacks that never return, and those that come back late.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{self, Device};
use crate::shards::{WINDOW, Worker, pattern};
use crate::support::of_event;
use serde_json::Value;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{NotDurable, Reason};
use vram_residency::error::{CheckError, NoAnswer, Revoked};
use vram_residency::{Lease, Shared};

/// What a check may take. Long enough for one whose callback returns at once, on a slow machine too.
const LIMIT: Duration = Duration::from_millis(500);

/// Nothing is as fast.
const NOTHING: Duration = Duration::from_nanos(1);

/// So late that the trail's writer has noticed.
const LATE: Duration = Duration::from_millis(1000);

const MAX_AGE: Duration = Duration::from_secs(3);

/// The writer looks once in five seconds then, and not at once.
const SELDOM: Duration = Duration::from_secs(3600);

fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A check whose callback never returns, on a thread that ends with the process.
fn hang(shared: &Arc<Shared<Device>>) {
    let (called, is_called) = mpsc::channel();
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        shared.check_with_progress(|_| {
            called.send(()).unwrap();
            loop {
                thread::park();
            }
        })
    });
    is_called.recv().unwrap();
}

/// A check whose callback takes its time, and then says this.
fn check_slowly(
    shared: &Shared<Device>,
    takes: Duration,
    says: ControlFlow<()>,
) -> Result<(), CheckError> {
    shared.check_with_progress(|_| {
        thread::sleep(takes);
        says
    })
}

fn shared(worker: &Worker, id: &str) -> (Arc<Shared<Device>>, Lease<Device>) {
    let shared = worker.verified(id, &pattern(5000)).share();
    let lease = shared.lease().unwrap();
    (Arc::new(shared), lease)
}

fn failures(worker: &Worker) -> Vec<Value> {
    worker.recorded("SealVerificationFailed")
}

fn is_late(outcome: Result<(), CheckError>) -> bool {
    matches!(
        outcome,
        Err(CheckError::Inconclusive { source: NoAnswer::TimedOut { limit, .. }, .. })
            if limit == LIMIT || limit == NOTHING
    )
}

fn reason(outcome: Result<(), CheckError>) -> Reason {
    let Err(CheckError::Broken { incident, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(incident.record().is_ok(), "{incident}");
    incident.reason()
}

#[test]
fn without_a_max_age_a_check_that_never_returns_ends_leases_once_that_is_durable() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT));
    let (shared, lease) = shared(&worker, "s");
    worker.trail.flush().unwrap();
    worker.disk.hang();
    hang(&shared);
    thread::sleep(LATE);
    assert!(worker.on_disk("SealVerificationFailed").is_empty());
    assert!(lease.is_current() && shared.lease().is_ok());
    worker.disk.heal();
    until("the lease ends", || !lease.is_current());
    let failed = worker.on_disk("SealVerificationFailed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["reason"], "deadline_exceeded");
    assert_eq!(failed[0]["operation"], "check");
    assert_eq!(failed[0]["severity"], "CRITICAL");
    assert_eq!(
        failed[0]["detail"],
        "no answer within the deadline of 500ms"
    );
    let verified = worker.on_disk("SealVerified");
    assert_eq!(failed[0]["last_verified_seq"], verified[0]["seq"]);

    assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    assert!(matches!(shared.check(), Err(CheckError::AlreadyFailed)));
    let records = worker.close();
    let closed = records.last().unwrap();
    assert_eq!(closed["event"], "TrailClosed");
    assert_eq!(closed["open_verifications"], 1);
}

#[test]
fn with_a_max_age_a_check_that_never_returns_is_on_record_and_leases_run_out() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT).max_age(MAX_AGE));
    let (shared, lease) = shared(&worker, "s");
    hang(&shared);
    until("it is on record", || {
        !worker.on_disk("VerificationInconclusive").is_empty()
    });
    assert!(lease.is_current(), "the last check is young enough");
    until("the lease ends", || !lease.is_current());
    assert_eq!(shared.lease().unwrap_err(), Revoked::Overdue);
    assert_eq!(worker.recorded("VerificationOverdue").len(), 1);
    let unanswered = worker.recorded("VerificationInconclusive");
    assert_eq!(unanswered.len(), 1, "once");
    assert_eq!(
        unanswered[0]["cause"],
        "no answer within the deadline of 500ms"
    );
    assert_eq!(unanswered[0]["operation"], "check");
    assert!(failures(&worker).is_empty());
    // Another check is in time, and counts.
    shared.check().unwrap();
    assert!(lease.is_current());
}

#[test]
fn a_match_that_comes_late_renews_nothing() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT).max_age(MAX_AGE));
    let (shared, lease) = shared(&worker, "s");
    let (verified, began) = (shared.verified_at(), Instant::now());
    // In the first of them the writer has not noticed: nothing else keeps it awake.
    for takes in [LIMIT + Duration::from_millis(1), LATE] {
        let outcome = check_slowly(&shared, takes, ControlFlow::Continue(()));
        assert!(is_late(outcome));
    }
    assert_eq!(shared.verified_at(), verified);
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 2);
    assert_eq!(worker.recorded("SealVerified").len(), 1, "at the beginning");
    thread::sleep(MAX_AGE.saturating_sub(began.elapsed()));
    until("the lease ends", || !lease.is_current());
    assert!(failures(&worker).is_empty());
}

#[test]
fn a_match_that_comes_late_gives_no_lease_back() {
    for seldom in [false, true] {
        let worker = Worker::with_trail(
            |builder| match seldom {
                true => builder.durable_within(SELDOM),
                false => builder,
            },
            |builder| builder.check_deadline(LIMIT),
        );
        let (shared, lease) = shared(&worker, "s");
        let outcome = check_slowly(&shared, LATE, ControlFlow::Continue(()));
        assert_eq!(reason(outcome), Reason::DeadlineExceeded);
        assert!(!lease.is_current(), "before its caller knows");
        assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
        assert_eq!(failures(&worker).len(), 1, "seldom: {seldom}");
        assert_eq!(worker.recorded("SealVerified").len(), 1);
        assert!(matches!(shared.check(), Err(CheckError::AlreadyFailed)));
    }
}

/// The writer has put on record that the check is late. Its callback returns, and the bytes are wrong.
#[test]
fn a_mismatch_that_comes_late_is_an_incident_of_its_own() {
    if backend::NAME != "host" {
        return eprintln!("skipped: a GPU reports no progress in so small a shard");
    }
    for max_age in [None, Some(MAX_AGE * 100)] {
        let worker = Worker::with(|builder| {
            let builder = builder.check_deadline(LIMIT);
            match max_age {
                None => builder,
                Some(max_age) => builder.max_age(max_age),
            }
        });
        let shard = worker.verified("s", &pattern(64 * WINDOW as usize));
        let shared = shard.share();
        let lease = shared.lease().unwrap();
        shared.dangerous_flip_bit(7, 0).unwrap();
        let mut slept = false;
        let outcome = shared.check_with_progress(|progress| {
            assert!(progress.done < progress.total);
            if !std::mem::replace(&mut slept, true) {
                thread::sleep(LATE);
            }
            ControlFlow::Continue(())
        });
        assert!(slept, "progress was not called before the end");
        assert_eq!(reason(outcome), Reason::DigestMismatch);
        assert!(!lease.is_current());
        let reasons: Vec<_> = failures(&worker)
            .into_iter()
            .map(|record| record["reason"].clone())
            .collect();
        match max_age {
            None => assert_eq!(reasons, ["deadline_exceeded", "digest_mismatch"]),
            Some(_) => assert_eq!(reasons, ["digest_mismatch"]),
        }
        let lapsed = worker.recorded("VerificationInconclusive").len();
        assert_eq!(lapsed, usize::from(max_age.is_some()));
        assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    }
}

#[test]
fn a_late_check_that_stops_or_panics_is_no_less_late() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT));
    let (stops, lease) = shared(&worker, "stops");
    let outcome = check_slowly(&stops, LATE, ControlFlow::Break(()));
    assert_eq!(reason(outcome), Reason::DeadlineExceeded);
    assert!(!lease.is_current());

    let (panics, lease) = shared(&worker, "panics");
    let check = || {
        panics.check_with_progress(|_| {
            thread::sleep(LATE);
            panic!("on purpose")
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(check)).is_err());
    assert!(!lease.is_current());
    let of = |id: &str| {
        let failed = failures(&worker).into_iter();
        let of = failed.filter(|record| record["shard"] == id);
        of.map(|record| record["reason"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("stops"), ["deadline_exceeded"]);
    assert_eq!(of("panics"), ["deadline_exceeded", "interrupted"]);
}

#[test]
fn windows_and_many_shards_at_once_have_the_same_deadline() {
    for max_age in [false, true] {
        let worker = Worker::with(|builder| {
            let builder = builder.check_deadline(NOTHING);
            match max_age {
                false => builder,
                true => builder.max_age(MAX_AGE * 100),
            }
        });
        let all: Vec<_> = ["a", "b", "c"].map(|id| shared(&worker, id)).into();
        all[1].0.dangerous_flip_bit(0, 0).unwrap();
        let many: Vec<_> = all.iter().map(|(shared, _)| &**shared).collect();
        let windows = shared(&worker, "d");
        let mut outcomes = Shared::check_all(&many);
        outcomes.push(windows.0.check_window(0..1));
        for (index, outcome) in outcomes.into_iter().enumerate() {
            if index == 1 {
                assert_eq!(reason(outcome), Reason::DigestMismatch);
            } else if max_age {
                assert!(is_late(outcome), "{index}");
            } else {
                assert_eq!(reason(outcome), Reason::DeadlineExceeded, "{index}");
            }
        }
        let leases = all.iter().chain([&windows]);
        let current: Vec<_> = leases.map(|(_, lease)| lease.is_current()).collect();
        assert_eq!(current, [max_age, false, max_age, max_age]);
        assert_eq!(worker.recorded("SealVerified").len(), 4, "at the beginning");
    }
}

/// The disk is slow when the record of one shard's failure has to be durable.
#[test]
fn waiting_for_one_shards_record_takes_none_of_the_others_time() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT));
    let all: Vec<_> = ["a", "b", "c"].map(|id| shared(&worker, id)).into();
    all[0].0.dangerous_flip_bit(0, 0).unwrap();
    worker.trail.flush().unwrap();
    worker.disk.hang();
    thread::scope(|scope| {
        let check = scope.spawn(|| {
            let many: Vec<_> = all.iter().map(|(shared, _)| &**shared).collect();
            Shared::check_all(&many)
        });
        thread::sleep(LATE);
        worker.disk.heal();
        let mut outcomes = check.join().unwrap().into_iter();
        assert_eq!(reason(outcomes.next().unwrap()), Reason::DigestMismatch);
        assert!(outcomes.all(|outcome| outcome.is_ok()));
    });
    assert_eq!(failures(&worker).len(), 1);
}

/// As for every failure: leases end also if the record cannot be written, and the incident says so.
#[test]
fn leases_end_although_the_disk_is_full() {
    let worker = Worker::with(|builder| builder.check_deadline(LIMIT));
    let (shared, lease) = shared(&worker, "s");
    worker.trail.flush().unwrap();
    for step in [Step::Write, Step::Create] {
        worker.disk.fail(step, StorageError::NoSpace, u32::MAX);
    }
    let outcome = shared.check_with_progress(|_| {
        let ended = || !lease.is_current();
        until("the lease ends", ended);
        ControlFlow::Continue(())
    });
    let Err(CheckError::Broken { incident, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    let error = incident.record().unwrap_err();
    assert!(matches!(error, NotDurable::WriteFailed { .. }), "{error}");
    worker.disk.heal();
    assert_eq!(failures(&worker).len(), 1);
    assert!(incident.record().is_ok(), "asked again");
}

/// The writer has hardly looked since.
#[test]
fn a_check_that_is_late_when_the_trail_is_closed_is_on_record_before_that() {
    let worker = Worker::with_trail(
        |builder| builder.durable_within(SELDOM),
        |builder| builder.check_deadline(LIMIT),
    );
    let (shared, lease) = shared(&worker, "s");
    hang(&shared);
    thread::sleep(LATE);
    let records = worker.close();
    let [.., failed, closed] = &records[..] else {
        panic!("{records:?}")
    };
    assert_eq!(failed["reason"], "deadline_exceeded");
    assert_eq!(closed["event"], "TrailClosed");
    assert_eq!(closed["open_verifications"], 1);
    assert!(!lease.is_current());
}

/// A deadline or not, a check or not: what runs is not passed over in silence.
#[test]
fn closing_says_how_many_verifications_have_no_outcome() {
    let worker = Worker::new();
    let (shared, lease) = shared(&worker, "s");
    hang(&shared);
    let other = worker.verified("t", &pattern(5000));
    let (called, is_called) = mpsc::channel();
    thread::spawn(move || {
        other.reverify_with_progress(|_| {
            called.send(()).unwrap();
            loop {
                thread::park();
            }
        })
    });
    is_called.recv().unwrap();
    let records = worker.close();
    assert_eq!(records.last().unwrap()["open_verifications"], 2);
    assert!(lease.is_current(), "nothing is known of the bytes");
}

#[test]
fn checks_in_time_are_what_they_are_without_a_deadline() {
    let worker = Worker::with(|builder| builder.check_deadline(Duration::from_secs(3600)));
    let (one, lease) = shared(&worker, "a");
    let (other, _lease) = shared(&worker, "b");
    check_slowly(&one, LATE, ControlFlow::Continue(())).unwrap();
    one.check_window(0..1).unwrap();
    let outcomes = Shared::check_all(&[&*one, &*other]);
    assert!(outcomes.iter().all(Result::is_ok));
    let stopped = check_slowly(&one, Duration::ZERO, ControlFlow::Break(()));
    assert!(matches!(
        stopped,
        Err(CheckError::Inconclusive {
            source: NoAnswer::Stopped { .. },
            ..
        })
    ));
    assert!(lease.is_current());
    let records = worker.close();
    assert_eq!(records.last().unwrap().get("open_verifications"), None);
    let failed = records
        .iter()
        .filter(|record| record["outcome"] == "failure");
    assert_eq!(failed.count(), 1, "the one that was stopped");
}

/// Its record is refused, so the trail knows of none.
#[test]
fn an_outcome_that_comes_while_the_trail_is_closed_is_none() {
    let worker = Worker::new();
    let (shared, lease) = shared(&worker, "s");
    worker.trail.flush().unwrap();
    let disk = worker.disk.clone();
    // The writer hangs before it comes to closing.
    disk.hang();
    worker.trail.note("x").unwrap();
    let (called, is_called) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let check = thread::spawn(move || {
        shared.check_with_progress(|_| {
            called.send(()).unwrap();
            goes_on.recv().unwrap();
            ControlFlow::Continue(())
        })
    });
    is_called.recv().unwrap();
    let closing = thread::spawn(move || {
        // Closing the manager would wait for the writer first.
        worker.trail.close().unwrap();
        worker.place.records()
    });
    thread::sleep(LATE);
    go_on.send(()).unwrap();
    check.join().unwrap().unwrap();
    disk.heal();
    let records = closing.join().unwrap();
    assert_eq!(of_event(&records, "SealVerified").len(), 1, "the first");
    assert_eq!(records.last().unwrap()["open_verifications"], 1);
    assert!(lease.is_current());
}
