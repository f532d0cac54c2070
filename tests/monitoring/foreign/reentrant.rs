//! Code that the trail calls, and that records in turn. It does not wait for the trail, does not wake
//! its writer, and loses nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing::span;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    Anchor, AnchorError, AuditTrailBuilder, Checkpoint, DEFAULT_DURABLE_WITHIN, NotDurable,
    RecordError,
};
use vram_residency::device::Host;
use vram_residency::shard::Shared;
use vram_residency::{AuditTrail, audit::PolicyViolation};

use super::until;
use crate::support::{VIOLATION, alone, builder_at, manager, of_event, records, sealed};

/// How many critical records one second of this may bring: two ticks in each durability interval, which
/// is a second, and some more for a machine that is busy.
const MOST_IN_A_SECOND: usize = 10;

const OWN: PolicyViolation<'static> = PolicyViolation {
    policy: "re-entrant",
    ..VIOLATION
};

/// Records critically whenever it is called, once it knows the trail.
#[derive(Clone, Default)]
struct Echo(Arc<Inner>);

#[derive(Default)]
struct Inner {
    trail: OnceLock<Arc<AuditTrail>>,
    shared: OnceLock<Arc<Shared<Host>>>,
    over: AtomicBool,
    calls: AtomicUsize,
    depth: AtomicUsize,
    answers: Mutex<Vec<Result<(), RecordError>>>,
    slowest: Mutex<Duration>,
}

/// With the durability interval that a trail has by default: the writer ticks twice in it.
fn builder(place: &Path) -> AuditTrailBuilder {
    builder_at(place).durable_within(DEFAULT_DURABLE_WITHIN)
}

impl Echo {
    fn record(&self) {
        let inner = &*self.0;
        let Some(trail) = inner.trail.get() else {
            return;
        };
        if inner.over.load(Ordering::Relaxed) {
            return;
        }
        assert_eq!(inner.depth.fetch_add(1, Ordering::SeqCst), 0, "recursion");
        inner.calls.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let answer = trail.policy_violation(OWN).map(drop);
        inner.answers.lock().unwrap().push(answer);
        if let Some(shared) = inner.shared.get() {
            shared.check().unwrap();
        }
        let mut slowest = inner.slowest.lock().unwrap();
        *slowest = started.elapsed().max(*slowest);
        drop(slowest);
        inner.depth.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lets it run for a second, and returns how many records came from it.
    fn run(&self, trail: &Arc<AuditTrail>) -> usize {
        let inner = &*self.0;
        inner.trail.set(Arc::clone(trail)).ok().unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        inner.over.store(true, Ordering::Relaxed);
        let answers = inner.answers.lock().unwrap();
        for answer in &*answers {
            assert!(
                matches!(
                    answer,
                    Err(RecordError::NotDurable(NotDurable::NotAwaited { .. }))
                ),
                "{answer:?}"
            );
        }
        answers.len()
    }

    /// What it recorded is on the trail, and nothing was waited for.
    fn is_whole(&self, place: &Path) {
        let recorded = self.0.answers.lock().unwrap().len();
        until("all is on disk", || {
            let records = records(&place.join("trail"));
            let own = of_event(&records, "PolicyViolation");
            let own = own.iter().filter(|own| own["policy"] == "re-entrant");
            (own.count() == recorded).then_some(())
        });
        let slowest = *self.0.slowest.lock().unwrap();
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
}

impl Anchor for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        self.record();
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

impl tracing::Subscriber for Echo {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        // What the checkpoints' own thread logs, and what the trail says of its troubles.
        if event.metadata().target().starts_with("vram_residency") {
            Self::record(self);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Recorder for Echo {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == "vram.audit.emit_attempts" {
            self.record();
        }
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn an_anchor_that_records_critically_does_not_keep_the_writer_at_work() {
    alone(|place| {
        let echo = Echo::default();
        let builder = builder(place).anchor(echo.clone());
        let trail = Arc::new(builder.open_or_create().unwrap());
        let recorded = echo.run(&trail);
        assert!((1..=MOST_IN_A_SECOND).contains(&recorded), "{recorded}");
        echo.is_whole(place);
        assert_eq!(trail.counts().critical_failures, 0);
    });
}

#[test]
fn a_subscriber_that_records_critically_is_queued_and_not_called_by_itself() {
    alone(|place| {
        let echo = Echo::default();
        tracing::subscriber::set_global_default(echo.clone()).unwrap();
        let faults = StorageFaults::dangerous_new();
        let trail = builder(place)
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        let trail = Arc::new(trail);
        // A log of checkpoints, and one of a segment that is given up.
        faults.fail(Step::Sync, StorageError::Io, 1);
        let recorded = echo.run(&trail);
        assert!((2..=2 * MOST_IN_A_SECOND).contains(&recorded), "{recorded}");
        echo.is_whole(place);
    });
}

#[test]
fn a_recorder_that_checks_a_shard_and_records_is_queued() {
    alone(|place| {
        let echo = Echo::default();
        let trail = Arc::new(builder(place).open_or_create().unwrap());
        let manager = manager(&trail);
        let shared = sealed(&manager, "shared", 4096).verify().unwrap().share();
        echo.0.shared.set(Arc::new(shared)).ok().unwrap();
        assert!(metrics::set_global_recorder(echo.clone()).is_ok());
        let recorded = echo.run(&trail);
        assert!((1..=MOST_IN_A_SECOND).contains(&recorded), "{recorded}");
        echo.is_whole(place);
        let checks = of_event(&records(&place.join("trail")), "SealVerified");
        let checks = checks.iter().filter(|check| check["operation"] == "check");
        assert!(checks.count() >= 1);
    });
}

/// Flushing waits for the writer, and so does not wait here. Closing waits for the hook.
#[test]
fn a_hook_that_flushes_is_told_that_nobody_waited() {
    alone(|place| {
        let echo = Echo::default();
        let inner = Arc::clone(&echo.0);
        let told = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&told);
        let faults = StorageFaults::dangerous_new();
        let trail = builder(place)
            .queue_records(16)
            .failure_window(Duration::from_secs(1))
            .on_degraded(move |_| {
                if let Some(trail) = inner.trail.get() {
                    trail.note("from the hook").ok();
                    *answer.lock().unwrap() = Some(trail.flush());
                }
            })
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        let trail = Arc::new(trail);
        echo.0.trail.set(Arc::clone(&trail)).ok().unwrap();
        faults.hang();
        for number in 0..200 {
            let _lost_or_not = trail.note(format!("{number}"));
        }
        faults.heal();
        let flushed = until("the hook is called", || told.lock().unwrap().take());
        assert!(
            matches!(flushed, Ok(()) | Err(NotDurable::NotAwaited { .. })),
            "{flushed:?}"
        );
    });
}
