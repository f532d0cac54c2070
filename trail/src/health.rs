//! The health of a trail: counters and gauges, their path to a metrics exporter, and whether too
//! many records were lost recently.
//!
//! The trail's own counters are authoritative. A separate thread copies them to the recorder that
//! the [`metrics`] facade has at that time. So an exporter may be installed before or after the
//! trail is opened. All metrics are published from the start: an alert on a metric that does not
//! exist stays silent. `ops/alerts.yml` has alerts for each of them.
//!
//! This module knows nothing of queues, files or exporters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use metrics::Unit;

use crate::clock::{Time, Uptime};
use crate::id::WorkerId;
use crate::threads::AtomicU64;

pub(crate) mod hook;

/// Counts records from outside the trail that got a number or were refused.
pub const EMIT_ATTEMPTS: &str = "vram.audit.emit_attempts";
/// Counts the attempts that were lost at any stage.
pub const EMIT_FAILURES: &str = "vram.audit.emit_failures";
/// Counts critical records whose caller got the answer that they were not durable yet. They may be
/// durable by now.
pub const CRITICAL_EMIT_FAILURES: &str = "vram.audit.critical_emit_failures";
/// Counts failed verifications. Each is a `SealVerificationFailed`, whether or not it is on disk.
pub const VERIFICATION_FAILURES: &str = "vram.audit.verification_failures";
/// Gauge: the time of the last of the [`VERIFICATION_FAILURES`], in seconds since 1970 (UTC). 0 if
/// there was none since the trail was opened. It tells a new failure from an old one. A counter
/// cannot do that if each start of the process fails once before its first scrape.
pub const LAST_VERIFICATION_FAILURE: &str = "vram.audit.last_verification_failure";
/// Gauge: the time of the last of the [`CRITICAL_EMIT_FAILURES`], likewise.
pub const LAST_CRITICAL_EMIT_FAILURE: &str = "vram.audit.last_critical_emit_failure";
/// Gauge: 1 while more records are lost than the threshold allows, otherwise 0. It is 0 once the
/// trail is closed.
pub const DEGRADED: &str = "vram.audit.degraded";
/// Gauge: when the writer's thread was last seen at work, in seconds since 1970 (UTC). It is
/// updated every few seconds, and stands still when the writer hangs, has ended, or the trail is
/// closed.
pub const HEARTBEAT: &str = "vram.audit.heartbeat";
/// Gauge: the age in seconds of the oldest record that no anchor covers, durable or not. 0 if there
/// is no such record, or no anchor. After closing it keeps its last value.
pub const UNANCHORED_SECONDS: &str = "vram.audit.unanchored_seconds";

/// Gauge: the age in seconds of the oldest record that is not durable. 0 if all are, and once the
/// trail is closed. A full or failing disk shows here first: nothing is lost before the queue is
/// full.
pub const OLDEST_NOT_DURABLE_SECONDS: &str = "vram.audit.oldest_not_durable_seconds";
/// Gauge: the number of records that are not durable, including those that the writer holds. A kill
/// would lose them.
pub const QUEUE_DEPTH: &str = "vram.audit.queue_depth";

/// The default window in which losses are compared with attempts.
pub const DEFAULT_FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// The default number of records of a thousand that may be lost in that window.
pub const DEFAULT_FAILURE_THRESHOLD_PER_MILLE: u16 = 10;

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
    /// See [`VERIFICATION_FAILURES`].
    pub verification_failures: u64,
}

/// The records that wait to become durable, at the time of the call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Backlog {
    /// See [`QUEUE_DEPTH`].
    pub records: u64,
    /// See [`OLDEST_NOT_DURABLE_SECONDS`].
    pub oldest: Duration,
}

/// The values of one trail to be published besides its counters, and whether a call to publish them
/// waits.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// In milliseconds since 1970.
    heartbeat: AtomicU64,
    is_degraded: AtomicBool,
    /// A call that publishes everything waits, or a call that publishes the counters.
    pub(crate) all_wait: AtomicBool,
    pub(crate) counters_wait: AtomicBool,
}

impl Vitals {
    /// Notes that the writer's thread is at work. Only that thread calls it.
    pub(crate) fn beat(&self, is_degraded: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat.store(now, Ordering::Relaxed);
        self.is_degraded.store(is_degraded, Ordering::Relaxed);
    }

    /// Notes that the trail is closed, and no longer degraded.
    pub(crate) fn end(&self) {
        self.is_degraded.store(false, Ordering::Relaxed);
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat.load(Ordering::Relaxed))
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.is_degraded.load(Ordering::Relaxed)
    }
}

/// The live counters of one trail. They change only under the queue's lock, so a load and a store
/// suffice. The counters that every record touches come first.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Counters {
    attempts: AtomicU64,
    failures: AtomicU64,
    critical_failures: AtomicU64,
    verification_failures: AtomicU64,
    /// In seconds since 1970. 0 means never.
    last_critical_failure: AtomicU64,
    last_verification_failure: AtomicU64,
}

impl Counters {
    pub(crate) fn count_attempt(&self) {
        add(&self.attempts, 1);
    }

    pub(crate) fn count_failures(&self, count: u64) {
        add(&self.failures, count);
    }

    pub(crate) fn count_critical_failure(&self, at: Time) {
        add(&self.critical_failures, 1);
        self.last_critical_failure
            .store(at.unix_seconds(), Ordering::Relaxed);
    }

    pub(crate) fn count_verification_failure(&self, at: Time) {
        add(&self.verification_failures, 1);
        self.last_verification_failure
            .store(at.unix_seconds(), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> AuditCounts {
        AuditCounts {
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            critical_failures: self.critical_failures.load(Ordering::Relaxed),
            verification_failures: self.verification_failures.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    let value = counter.load(Ordering::Relaxed).saturating_add(count);
    counter.store(value, Ordering::Relaxed);
}

/// Publishes the counters, and the times when they last rose, to the installed metrics recorder,
/// with the worker as label.
pub(crate) fn publish_counters(worker: &WorkerId, counters: &Counters) {
    let counts = counters.read();
    for (name, value) in [
        (EMIT_ATTEMPTS, counts.attempts),
        (EMIT_FAILURES, counts.failures),
        (CRITICAL_EMIT_FAILURES, counts.critical_failures),
        (VERIFICATION_FAILURES, counts.verification_failures),
    ] {
        metrics::counter!(name, "worker" => worker.as_str().to_owned()).absolute(value);
    }
    for (name, last) in [
        (
            LAST_VERIFICATION_FAILURE,
            &counters.last_verification_failure,
        ),
        (LAST_CRITICAL_EMIT_FAILURE, &counters.last_critical_failure),
    ] {
        let at = Duration::from_secs(last.load(Ordering::Relaxed));
        metrics::gauge!(name, "worker" => worker.as_str().to_owned()).set(at.as_secs_f64());
    }
}

/// Publishes the gauges likewise, except the heartbeat.
pub(crate) fn publish_gauges(
    worker: &WorkerId,
    degraded: bool,
    backlog: Backlog,
    unanchored: Duration,
) {
    // A gauge is a float, and no memory holds more than `u32::MAX` records.
    let records = u32::try_from(backlog.records).unwrap_or(u32::MAX);
    for (name, value) in [
        (OLDEST_NOT_DURABLE_SECONDS, backlog.oldest.as_secs_f64()),
        (QUEUE_DEPTH, f64::from(records)),
        (DEGRADED, f64::from(u8::from(degraded))),
        (UNANCHORED_SECONDS, unanchored.as_secs_f64()),
    ] {
        metrics::gauge!(name, "worker" => worker.as_str().to_owned()).set(value);
    }
}

/// Publishes when the writer's thread was last at work.
pub(crate) fn publish_heartbeat(worker: &WorkerId, at: Duration) {
    metrics::gauge!(HEARTBEAT, "worker" => worker.as_str().to_owned()).set(at.as_secs_f64());
}

/// Describes the metrics to the installed recorder. Repeated, because a later recorder has not got
/// the descriptions.
pub(crate) fn describe() {
    metrics::describe_counter!(
        EMIT_ATTEMPTS,
        "Audit records that were given to the trail or refused"
    );
    metrics::describe_counter!(EMIT_FAILURES, "Audit records that were lost");
    metrics::describe_counter!(
        CRITICAL_EMIT_FAILURES,
        "Critical audit records whose caller was told that they are not durable yet"
    );
    metrics::describe_counter!(
        VERIFICATION_FAILURES,
        "Verifications of weights that failed"
    );
    metrics::describe_gauge!(
        LAST_VERIFICATION_FAILURE,
        Unit::Seconds,
        "When weights last failed a verification, in seconds since 1970, or 0"
    );
    metrics::describe_gauge!(
        LAST_CRITICAL_EMIT_FAILURE,
        Unit::Seconds,
        "When a caller was last told that a critical audit record is not durable yet, in seconds since 1970, or 0"
    );
    metrics::describe_gauge!(
        DEGRADED,
        "1 while more audit records are lost than the threshold allows"
    );
    metrics::describe_gauge!(
        HEARTBEAT,
        Unit::Seconds,
        "When the audit trail's writer was last at work, in seconds since 1970"
    );
    metrics::describe_gauge!(
        UNANCHORED_SECONDS,
        Unit::Seconds,
        "Age of the oldest audit record that no anchor covers"
    );
    metrics::describe_gauge!(
        OLDEST_NOT_DURABLE_SECONDS,
        Unit::Seconds,
        "Age of the oldest audit record that is not on disk"
    );
    metrics::describe_gauge!(
        QUEUE_DEPTH,
        Unit::Count,
        "Audit records that are not on disk"
    );
}

/// A crossing of the threshold by the share of lost records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Degradation {
    /// True if more is lost than allowed from now on, false if the loss is within the limit again.
    pub degraded: bool,
    /// The window, ending now.
    pub window: Duration,
    /// The records that were given to the trail, or refused, in the window.
    pub attempts: u64,
    /// The records among them that were lost.
    pub failures: u64,
}

/// How many samples a window is divided into.
const SAMPLES: u32 = 300;

/// Watches the share of failed attempts within the window that ends now.
#[derive(Debug)]
pub(crate) struct FailureRatio {
    window: Duration,
    threshold_per_mille: u64,
    /// Oldest first, at most two more than [`SAMPLES`]. The first sample is at the window's beginning, or
    /// before it.
    samples: VecDeque<Sample>,
    degraded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Uptime,
    counts: AuditCounts,
}

impl FailureRatio {
    /// Starts without attempts.
    pub(crate) fn new(now: Uptime, window: Duration, threshold_per_mille: u16) -> Self {
        Self {
            window,
            threshold_per_mille: threshold_per_mille.into(),
            samples: VecDeque::from([Sample {
                at: now,
                counts: AuditCounts::default(),
            }]),
            degraded: false,
        }
    }

    /// Returns whether the last look found more losses than allowed.
    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Returns the crossing if the share has crossed the threshold since the last look, in either
    /// direction.
    pub(crate) fn look(&mut self, now: Uptime, counts: AuditCounts) -> Option<Degradation> {
        self.forget(now);
        let start = self.samples.front().map(|sample| sample.counts)?;
        let attempts = counts.attempts.saturating_sub(start.attempts);
        let failures = counts.failures.saturating_sub(start.failures);
        self.sample(Sample { at: now, counts });
        let allowed = attempts.saturating_mul(self.threshold_per_mille);
        let degraded = failures.saturating_mul(1000) > allowed;
        if degraded == self.degraded {
            return None;
        }
        self.degraded = degraded;
        Some(Degradation {
            degraded,
            window: self.window,
            attempts,
            failures,
        })
    }

    /// Drops the first sample while the next one is old enough to begin the window.
    fn forget(&mut self, now: Uptime) {
        while self
            .samples
            .get(1)
            .is_some_and(|second| now.since(second.at) >= self.window)
        {
            self.samples.pop_front();
        }
    }

    fn sample(&mut self, sample: Sample) {
        let apart = self.window.checked_div(SAMPLES).unwrap_or(self.window);
        if self
            .samples
            .back()
            .is_none_or(|last| sample.at.since(last.at) >= apart)
        {
            self.samples.push_back(sample);
        }
    }
}

#[cfg(test)]
mod tests;
