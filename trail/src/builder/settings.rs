//! The settings of a trail: their limits, and their form in `TrailOpened`.

use std::sync::Arc;
use std::time::Duration;

use super::{
    DEFAULT_CRITICAL_DEADLINE, DEFAULT_DURABLE_WITHIN, DEFAULT_QUEUE_RECORDS, DEFAULT_SEGMENT_AGE,
    DEFAULT_SEGMENT_BYTES, RESERVED_RECORDS, Retention,
};
use crate::anchor::{DEFAULT_ANCHOR_EVERY, DEFAULT_ANCHOR_EVERY_RECORDS, MAX_NAME_BYTES, Schedule};
use crate::event::Configuration;
use crate::health::{DEFAULT_FAILURE_THRESHOLD_PER_MILLE, DEFAULT_FAILURE_WINDOW};
use crate::key::{Custody, FileAccess};
use crate::open::OpenError;
use crate::process;
use crate::storage::Medium;

/// The most origins, and the most anchors, that can be named as exceptions for one opening.
const MAX_NAMED: usize = 16;

/// The longest window in which lost records are compared with attempts.
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// The longest deadline or interval that can be configured.
const LONGEST: Duration = Duration::from_secs(3600);

/// The highest segment age that can be configured.
const LONGEST_AGE: Duration = Duration::from_secs(366 * 24 * 3600);

/// The settings of a trail, which stay the same until it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) critical_deadline: Duration,
    pub(crate) durable_within: Duration,
    pub(crate) queue_records: usize,
    pub(crate) reserved_records: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
    pub(crate) directory_access: FileAccess,
    pub(crate) retention: Retention,
    pub(crate) failure_window: Duration,
    pub(crate) failure_threshold_per_mille: u16,
    pub(crate) anchor_every_records: u64,
    pub(crate) anchor_every: Duration,
    pub(crate) new_origin_beside: Vec<Arc<str>>,
    pub(crate) ignored_unverifiable_anchors: Vec<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            critical_deadline: DEFAULT_CRITICAL_DEADLINE,
            durable_within: DEFAULT_DURABLE_WITHIN,
            queue_records: DEFAULT_QUEUE_RECORDS,
            reserved_records: RESERVED_RECORDS,
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            segment_age: DEFAULT_SEGMENT_AGE,
            directory_access: FileAccess::OwnerOnly,
            retention: Retention::default(),
            failure_window: DEFAULT_FAILURE_WINDOW,
            failure_threshold_per_mille: DEFAULT_FAILURE_THRESHOLD_PER_MILLE,
            anchor_every_records: DEFAULT_ANCHOR_EVERY_RECORDS,
            anchor_every: DEFAULT_ANCHOR_EVERY,
            new_origin_beside: Vec::new(),
            ignored_unverifiable_anchors: Vec::new(),
        }
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let wrong = |setting, allowed| Err(OpenError::Configuration { setting, allowed });
        if !(Duration::from_millis(1)..=LONGEST).contains(&self.critical_deadline) {
            return wrong("critical_deadline", "from 1 ms to 1 hour");
        }
        if !(Duration::from_millis(2)..=LONGEST).contains(&self.durable_within) {
            return wrong("durable_within", "from 2 ms to 1 hour");
        }
        if !(16..=1 << 24).contains(&self.queue_records) {
            return wrong("queue_records", "from 16 to 16777216");
        }
        if !(4096..=1 << 40).contains(&self.segment_bytes) {
            return wrong("segment_bytes", "from 4 KiB to 1 TiB");
        }
        if !(Duration::from_secs(1)..=LONGEST_AGE).contains(&self.segment_age) {
            return wrong("segment_age", "from 1 second to 366 days");
        }
        if !self.retention.makes_sense() {
            return wrong(
                "retention",
                "at least a month, with a basis of 1 to 1024 bytes",
            );
        }
        if self.failure_window.subsec_nanos() != 0
            || !(Duration::from_secs(1)..=LONGEST_WINDOW).contains(&self.failure_window)
        {
            return wrong("failure_window", "whole seconds from 1 s to 1 day");
        }
        if self.failure_threshold_per_mille > 999 {
            return wrong("failure_threshold_per_mille", "from 0 to 999");
        }
        // These names stand in `TrailOpened`, and the length of a line is limited.
        let is_short = |names: &[Arc<str>]| {
            names.len() <= MAX_NAMED
                && names
                    .iter()
                    .all(|name| name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control))
        };
        if !is_short(&self.new_origin_beside) {
            return wrong(
                "new_origin_beside",
                "at most 16 origins of at most 256 printable characters",
            );
        }
        if !is_short(&self.ignored_unverifiable_anchors) {
            return wrong(
                "dangerous_ignore_unverifiable_anchor",
                "at most 16 names of at most 256 printable characters",
            );
        }
        if self.anchor_every_records == 0 {
            return wrong("anchor_every_records", "at least 1");
        }
        if !(Duration::from_millis(1)..=LONGEST).contains(&self.anchor_every) {
            return wrong("anchor_every", "from 1 ms to 1 hour");
        }
        Ok(())
    }

    pub(crate) fn schedule(&self) -> Schedule {
        Schedule {
            every_records: self.anchor_every_records,
            every: self.anchor_every,
            patience: self.critical_deadline,
        }
    }

    /// Returns the settings as `TrailOpened` states them.
    pub(crate) fn configuration(
        &self,
        key: Custody,
        medium: Option<Medium>,
        anchors: Vec<Arc<str>>,
    ) -> Configuration {
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Configuration {
            fault_injection: cfg!(feature = "fault-injection"),
            key_access: key,
            directory_access: self.directory_access,
            medium,
            fork_guard: process::guard(),
            refused_calls: process::refused_calls(),
            critical_deadline_ms: milliseconds(self.critical_deadline),
            durable_within_ms: milliseconds(self.durable_within),
            queue_records: self.queue_records as u64,
            reserved_records: self.reserved_records as u64,
            segment_bytes: self.segment_bytes,
            segment_age_s: self.segment_age.as_secs(),
            failure_window_s: self.failure_window.as_secs(),
            failure_threshold_per_mille: self.failure_threshold_per_mille,
            anchors,
            anchor_every_records: self.anchor_every_records,
            anchor_every_ms: milliseconds(self.anchor_every),
            new_origin_beside: self.new_origin_beside.clone(),
            ignored_unverifiable_anchors: self.ignored_unverifiable_anchors.clone(),
        }
    }
}
