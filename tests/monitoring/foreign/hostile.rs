//! Foreign code that panics with a payload that panics when it is dropped, and that with another one.

use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing::span;
use vram_residency::TrailKey;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{Anchor, AnchorError, Checkpoint, CloseError};

use super::until;
use crate::support::{VIOLATION, alone, builder_at, of_event, records};

/// So often was foreign code called.
static CALLS: AtomicUsize = AtomicUsize::new(0);

struct Payload(u32);

impl Drop for Payload {
    fn drop(&mut self) {
        if let Some(again) = self.0.checked_sub(1) {
            panic_any(Payload(again));
        }
    }
}

fn burst() -> ! {
    CALLS.fetch_add(1, Ordering::Relaxed);
    panic_any(Payload(2))
}

/// A log, a recorder, an anchor: each call panics, and so does the destructor.
struct Hostile;

impl Drop for Hostile {
    fn drop(&mut self) {
        burst()
    }
}

impl tracing::Subscriber for Hostile {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        burst()
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Recorder for Hostile {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        burst()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        burst()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        burst()
    }
}

impl Anchor for Hostile {
    fn name(&self) -> &str {
        "hostile"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        burst()
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

/// An error of a signer or of an anchor: to ask what it says is to call foreign code again.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        burst()
    }
}

impl std::error::Error for Unspeakable {}

fn quiet() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[test]
fn no_payload_of_a_panic_reaches_the_writer() {
    alone(|place| {
        quiet();
        tracing::subscriber::set_global_default(Hostile).unwrap();
        assert!(metrics::set_global_recorder(Hostile).is_ok());
        let faults = vram_residency::audit::faults::StorageFaults::dangerous_new();
        let trail = builder_at(place)
            .queue_records(16)
            .durable_within(Duration::from_millis(20))
            .failure_window(Duration::from_secs(1))
            .anchor(Hostile)
            .on_degraded(|_| burst())
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        // Two segments are given up, and records are lost: the log and the hook are called.
        faults.fail(Step::Sync, StorageError::Io, 2);
        for number in 0..200 {
            let _lost_or_not = trail.note(format!("{number}"));
        }
        faults.heal();
        until("the disk works again", || {
            trail.policy_violation(VIOLATION).ok()
        });
        until("it panicked", || {
            (CALLS.load(Ordering::Relaxed) > 20).then_some(())
        });
        trail.policy_violation(VIOLATION).unwrap();
        trail.close().unwrap();
        let records = records(&place.join("trail"));
        assert_eq!(of_event(&records, "TrailClosed").len(), 1);
        let failed = of_event(&records, "AnchorFailed");
        let names: Vec<_> = failed.iter().map(|failed| &failed["anchor"]).collect();
        assert!(names.iter().any(|name| **name == "hostile"), "{names:?}");
        assert!(names.iter().any(|name| **name == "tracing"), "{names:?}");
    });
}

/// A signer's panic is a signature that failed; so is an error that cannot even be asked.
#[test]
fn a_signer_that_panics_is_a_disk_that_fails_and_not_the_writers_end() {
    static HOSTILE: AtomicUsize = AtomicUsize::new(0);
    static GONE: AtomicBool = AtomicBool::new(false);
    struct Noticed;
    impl Drop for Noticed {
        fn drop(&mut self) {
            GONE.store(true, Ordering::Relaxed);
            burst()
        }
    }
    alone(|place| {
        quiet();
        let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let public = secret.verifying_key().to_bytes();
        let noticed = Noticed;
        let signer = move |message: &[u8]| {
            let _held = &noticed;
            match HOSTILE.load(Ordering::Relaxed) {
                1 => burst(),
                2 => Err(Unspeakable.into()),
                _ => Ok(ed25519_dalek::Signer::sign(&secret, message).to_bytes()),
            }
        };
        let key = TrailKey::from_signer(public, signer).unwrap();
        let worker = "worker-1".parse().unwrap();
        let trail = vram_residency::AuditTrail::builder(worker, place.join("trail"), key)
            .create()
            .unwrap();
        for hostile in [1, 2] {
            HOSTILE.store(hostile, Ordering::Relaxed);
            trail.policy_violation(VIOLATION).unwrap_err();
            HOSTILE.store(0, Ordering::Relaxed);
            until("it signs again", || trail.policy_violation(VIOLATION).ok());
        }
        trail.close().unwrap();
        until("the signer is dropped", || {
            GONE.load(Ordering::Relaxed).then_some(())
        });
        assert_eq!(
            of_event(&records(&place.join("trail")), "TrailClosed").len(),
            1
        );
    });
}

/// Whether or not the trail's end could be written.
#[test]
fn a_signer_whose_destructor_never_returns_keeps_nobody_who_closes() {
    const LIMIT: Duration = Duration::from_millis(500);

    struct Hangs;
    impl Drop for Hangs {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let closes = |place: &std::path::Path, is_full: bool| {
        let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let public = secret.verifying_key().to_bytes();
        let hangs = Hangs;
        let signer = move |message: &[u8]| {
            let _held = &hangs;
            Ok(ed25519_dalek::Signer::sign(&secret, message).to_bytes())
        };
        let key = TrailKey::from_signer(public, signer).unwrap();
        std::fs::create_dir(place).unwrap();
        let disk = StorageFaults::dangerous_new();
        let worker = "worker-1".parse().unwrap();
        let trail = vram_residency::AuditTrail::builder(worker, place.join("trail"), key)
            .critical_deadline(LIMIT)
            .dangerous_storage_faults(disk.clone())
            .create()
            .unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        if is_full {
            for step in [Step::Write, Step::Create] {
                disk.fail(step, StorageError::NoSpace, u32::MAX);
            }
        }
        let closed = trail.close();
        assert_eq!(closed.is_err(), is_full, "{closed:?}");
        assert!(
            !matches!(closed, Err(CloseError::TimedOut { .. })),
            "{closed:?}"
        );
    };
    alone(|place| {
        closes(&place.join("good"), false);
        closes(&place.join("full"), true);
    });
}
