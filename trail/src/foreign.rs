//! Calls into code from outside this crate: the process's log (`tracing`), its metrics recorder,
//! anchors, hooks, signers.
//!
//! Such code may panic, hang, or record something itself. Three rules protect the trail from that:
//!
//! * `call` lets no panic through, nor one of the payload's destructor.
//! * [`log`] and `publish` hand the call to a thread of its own and never wait. The trail's writer
//!   reaches `tracing` and `metrics` in no other way.
//! * Inside such a call [`is_inside`] is true: a record made there is queued, and neither waits for the
//!   writer nor wakes it; a message made there is counted and not logged.
//!
//! This module does not know what is logged or published. Not defended: `panic = "abort"`, and a
//! panic hook that ends the process.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use outlet::Outlet;

use crate::process;

#[cfg(all(shuttle, feature = "shuttle"))]
use shuttle::thread_local;

mod outlet;

/// How long destructors wait for the log, so that an ending process has logged its reason.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the thread waits for a call before it reports missed messages without one.
const QUIET: Duration = Duration::from_secs(5);

/// The room holds the log messages of one writer for hours, and no more: a log that hangs keeps
/// them in memory.
static LOG: Outlet = Outlet::new("vram-log", 1024, QUIET, |missed| {
    call(|| {
        tracing::error!(target: crate::LOG,
            messages = missed,
            "the log did not take messages about an audit trail: it is too slow, it panicked, or it made them itself"
        );
    })
    .is_ok()
});

/// Each trail has at most two calls waiting here.
static METRICS: Outlet = Outlet::new("vram-metrics", 64, QUIET, |missed| {
    log(move || {
        tracing::error!(target: crate::LOG,
            missed,
            "the metrics recorder has panicked, does not return, or was called by itself; metrics of the audit trail are missing"
        );
    });
    true
});

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Foreign code has panicked. The panic's payload is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panicked;

/// Calls foreign code and stops its panic. The payload is foreign, too: if its destructor panics,
/// the rest is leaked.
pub(crate) fn call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outside = INSIDE.with(|inside| inside.replace(true));
    let outcome = catch_unwind(AssertUnwindSafe(call));
    let outcome = outcome.map_err(|payload| {
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            let _leaked = ManuallyDrop::new(again);
        }
        Panicked
    });
    INSIDE.with(|inside| inside.set(outside));
    outcome
}

/// Returns whether this thread is inside foreign code that this crate has called.
pub fn is_inside() -> bool {
    INSIDE.with(Cell::get)
}

/// Starts the threads of [`log`] and [`publish`], if this process has none. Until then both run on
/// the caller's thread.
pub(crate) fn start() -> io::Result<()> {
    LOG.start()?;
    METRICS.start()
}

/// Queues `message` to be logged. Does not wait.
pub fn log(message: impl FnOnce() + Send + 'static) {
    if is_inside() {
        return LOG.miss();
    }
    LOG.hand_over(Box::new(message));
}

/// Logs as [`log`] does, for an anchor of this crate, which is called like a foreign one.
pub(crate) fn log_of_own_anchor(message: impl FnOnce() + Send + 'static) {
    LOG.hand_over(Box::new(message));
}

/// Queues `values` for the metrics recorder. Does not wait. Returns whether the recorder will be
/// called.
pub(crate) fn publish(values: impl FnOnce() + Send + 'static) -> bool {
    if is_inside() {
        METRICS.miss();
        return false;
    }
    METRICS.hand_over(Box::new(values))
}

/// Waits until everything published and logged so far is delivered, at most `limit`, or
/// [`LAST_WORDS`] if that is longer.
pub(crate) fn settle(limit: Duration) {
    let now = Instant::now();
    let deadline = now.checked_add(limit.max(LAST_WORDS)).unwrap_or(now);
    METRICS.settle(deadline);
    LOG.settle(deadline);
}

/// Waits at most 100 ms until all that was logged and published so far has come through.
pub fn settle_briefly() {
    settle(Duration::ZERO);
}

/// Returns the text of an error and of its causes. Call it inside a [`call`] if the error is
/// foreign.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A foreign value whose destructor can do no harm.
pub(crate) struct Held<T>(Option<T>);

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Calls foreign code with the value.
    pub(crate) fn call<R>(&mut self, with: impl FnOnce(&mut T) -> R) -> Result<R, Panicked> {
        let Some(value) = &mut self.0 else {
            return Err(Panicked);
        };
        call(|| with(value))
    }

    /// Drops the value on a thread of its own, and waits for that at most [`LAST_WORDS`]. It is for
    /// threads that others wait for.
    pub(crate) fn discard(&mut self)
    where
        T: Send + 'static,
    {
        let value = Self(self.0.take());
        // A forked child starts no threads.
        if process::check().is_err() {
            return;
        }
        let (is_over, over) = mpsc::channel::<()>();
        // If no thread can be started, the value is dropped here.
        let started = std::thread::Builder::new()
            .name("vram-end".into())
            .spawn(move || {
                drop(value);
                drop(is_over);
            });
        if started.is_ok() {
            let _over = over.recv_timeout(LAST_WORDS);
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let _panicked = call(move || drop(value));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Panics when dropped, the given number of times.
    struct Hostile(u32);

    impl Drop for Hostile {
        fn drop(&mut self) {
            if let Some(again) = self.0.checked_sub(1) {
                panic_any(Hostile(again));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "leaks on purpose what panics when it is dropped")]
    fn no_panic_of_a_payload_or_of_a_value_gets_through() {
        for depth in 0..3 {
            assert!(call(|| panic_any(Hostile(depth))).is_err());
            drop(Held::new(Hostile(depth)));
        }
        assert!(!is_inside());
    }

    #[test]
    fn a_call_inside_a_call_ends_inside_the_first() {
        call(|| {
            let _panicked = call(|| panic!("inside"));
            assert!(is_inside());
        })
        .unwrap();
        assert!(!is_inside());
    }

    #[test]
    #[cfg_attr(miri, ignore = "its thread never ends")]
    fn a_log_that_cannot_be_told_is_told_ever_more_seldom() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        static LOG: Outlet = Outlet::new("log", 1, Duration::from_millis(10), |_| {
            TOLD.fetch_add(1, Ordering::Relaxed);
            false
        });
        LOG.start().unwrap();
        LOG.miss();
        // Attempts follow after 10 ms, 30, 70, 150 and 310, and later on a busy machine; not every
        // 10 ms.
        std::thread::sleep(Duration::from_millis(600));
        let told = TOLD.load(Ordering::Relaxed);
        assert!((1..=5).contains(&told), "{told} times");
    }
}
