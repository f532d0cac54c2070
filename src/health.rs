//! How the recording of the trail is doing: three counters, how they reach a metrics exporter, and
//! whether too much was lost of late.
//!
//! The truth is in the trail's own counters; the writer's thread copies them to whatever recorder
//! the [`metrics`] facade has at that time, so it does not matter whether an exporter is installed
//! before or after the trail is opened. Every counter is published from the start, at zero: an
//! alert on a counter that does not exist stays silent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::audit::clock::Uptime;
use crate::audit::event::Event;
use crate::id::WorkerId;

/// Records that were given or refused a number, from outside the trail.
pub const EMIT_ATTEMPTS: &str = "vram.audit.emit_attempts";
/// Those of the attempts that were lost at any stage.
pub const EMIT_FAILURES: &str = "vram.audit.emit_failures";
/// Records that had to be durable, and whose caller was told that they are not.
pub const CRITICAL_EMIT_FAILURES: &str = "vram.audit.critical_emit_failures";

/// The counters of one trail since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct AuditCounts {
    /// See [`EMIT_ATTEMPTS`].
    pub attempts: u64,
    /// See [`EMIT_FAILURES`].
    pub failures: u64,
    /// See [`CRITICAL_EMIT_FAILURES`]. Such a record may still be written later.
    pub critical_failures: u64,
}

/// The counters of one trail, as they change. They do so under the queue's lock only, so a load and a
/// store do.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    attempts: AtomicU64,
    failures: AtomicU64,
    critical_failures: AtomicU64,
}

impl Counters {
    pub(crate) fn count_attempt(&self) {
        add(&self.attempts, 1);
    }

    pub(crate) fn count_failures(&self, count: u64) {
        add(&self.failures, count);
    }

    pub(crate) fn count_critical_failure(&self) {
        add(&self.critical_failures, 1);
    }

    pub(crate) fn read(&self) -> AuditCounts {
        AuditCounts {
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            critical_failures: self.critical_failures.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    let value = counter.load(Ordering::Relaxed).saturating_add(count);
    counter.store(value, Ordering::Relaxed);
}

/// Hands the counters to the installed metrics recorder, labelled with the worker.
pub(crate) fn publish(worker: &WorkerId, counts: AuditCounts) {
    for (name, value) in [
        (EMIT_ATTEMPTS, counts.attempts),
        (EMIT_FAILURES, counts.failures),
        (CRITICAL_EMIT_FAILURES, counts.critical_failures),
    ] {
        metrics::counter!(name, "worker" => worker.as_str().to_owned()).absolute(value);
    }
}

/// The time over which losses are compared with attempts.
const WINDOW: Duration = Duration::from_secs(300);

/// How far apart two samples are at least: a window holds 301 of them.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Recording is degraded when more than one attempt in this many failed within the window.
const ONE_IN: u64 = 100;

/// Watches the share of attempts that failed within the last five minutes.
#[derive(Debug)]
pub(crate) struct FailureRatio {
    /// Oldest first; the first one is at the window's beginning, or before it.
    samples: VecDeque<Sample>,
    degraded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Uptime,
    counts: AuditCounts,
}

impl FailureRatio {
    /// Begins with nothing attempted.
    pub(crate) fn new(now: Uptime) -> Self {
        Self {
            samples: VecDeque::from([Sample {
                at: now,
                counts: AuditCounts::default(),
            }]),
            degraded: false,
        }
    }

    /// What is to be recorded if the share has crossed the threshold since the last look, in
    /// either direction.
    pub(crate) fn look(&mut self, now: Uptime, counts: AuditCounts) -> Option<Event> {
        self.forget(now);
        let start = self.samples.front().map(|sample| sample.counts)?;
        let attempts = counts.attempts.saturating_sub(start.attempts);
        let failures = counts.failures.saturating_sub(start.failures);
        self.sample(Sample { at: now, counts });
        let degraded = failures.saturating_mul(ONE_IN) > attempts;
        if degraded == self.degraded {
            return None;
        }
        self.degraded = degraded;
        Some(Event::AuditDegraded {
            degraded,
            window_s: WINDOW.as_secs(),
            attempts,
            failures,
        })
    }

    /// Drops samples while the one behind is old enough to begin the window.
    fn forget(&mut self, now: Uptime) {
        while self
            .samples
            .get(1)
            .is_some_and(|second| now.since(second.at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    fn sample(&mut self, sample: Sample) {
        if self
            .samples
            .back()
            .is_none_or(|last| sample.at.since(last.at) >= SAMPLE_EVERY)
        {
            self.samples.push_back(sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Uptime {
        Uptime::from_nanoseconds(seconds * 1_000_000_000)
    }

    fn counts(attempts: u64, failures: u64) -> AuditCounts {
        AuditCounts {
            attempts,
            failures,
            critical_failures: 0,
        }
    }

    #[test]
    fn exactly_one_percent_is_healthy_and_more_is_not() {
        let mut ratio = FailureRatio::new(at(0));
        assert!(ratio.look(at(1), counts(0, 0)).is_none(), "idle");
        assert!(ratio.look(at(2), counts(1000, 10)).is_none(), "1.0 %");
        assert!(matches!(
            ratio.look(at(3), counts(1000, 11)),
            Some(Event::AuditDegraded {
                degraded: true,
                window_s: 300,
                attempts: 1000,
                failures: 11
            })
        ));
        assert!(
            ratio.look(at(4), counts(1000, 12)).is_none(),
            "once for each crossing"
        );
    }

    #[test]
    fn losses_are_forgotten_after_the_window() {
        let mut ratio = FailureRatio::new(at(0));
        assert!(ratio.look(at(10), counts(100, 50)).is_some());
        for second in 11..310 {
            assert!(
                ratio.look(at(second), counts(100, 50)).is_none(),
                "{second}"
            );
        }
        assert!(matches!(
            ratio.look(at(310), counts(200, 50)),
            Some(Event::AuditDegraded {
                degraded: false,
                attempts: 100,
                failures: 0,
                ..
            })
        ));
        assert!(ratio.samples.len() <= 302);
    }
}
