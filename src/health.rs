//! How the recording of the trail is doing: three counters, and how they reach a metrics exporter.
//!
//! The truth is in the trail's own counters; the writer's thread copies them to whatever recorder
//! the [`metrics`] facade has at that time, so it does not matter whether an exporter is installed
//! before or after the trail is opened. Every counter is published from the start, at zero: an
//! alert on a counter that does not exist stays silent.

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
