//! What a trail is opened with: worker, directory, key, and the settings that can be chosen.
//!
//! This module knows which settings make sense and how `TrailOpened` states them. It does not know
//! how a trail is opened: that is `open`.

use std::path::PathBuf;
use std::time::Duration;

use super::AuditTrail;
use super::event::Configuration;
use super::open::OpenError;
use super::storage::Directory;
use crate::id::WorkerId;
use crate::key::TrailKey;
use crate::process;

/// How long a critical record may take, unless configured.
pub const DEFAULT_CRITICAL_DEADLINE: Duration = Duration::from_secs(5);

/// Within which time an ordinary record is durable, unless configured.
pub const DEFAULT_DURABLE_WITHIN: Duration = Duration::from_secs(1);

/// How many records wait for the disk at most, unless configured.
pub const DEFAULT_QUEUE_RECORDS: usize = 16_384;

/// How many critical records have room beyond that.
pub const RESERVED_RECORDS: usize = 1_024;

/// The longest deadline or interval that can be configured.
const LONGEST: Duration = Duration::from_secs(3600);

/// A trail that is about to be opened.
#[derive(Debug)]
#[must_use = "a builder does nothing until `open` is called"]
pub struct AuditTrailBuilder {
    pub(super) worker: WorkerId,
    pub(super) dir: PathBuf,
    pub(super) key: TrailKey,
    pub(super) settings: Settings,
    #[cfg(feature = "fault-injection")]
    faults: Option<super::faults::StorageFaults>,
}

/// What can be chosen about a trail, and is the same until it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) critical_deadline: Duration,
    pub(crate) durable_within: Duration,
    pub(crate) queue_records: usize,
}

impl AuditTrailBuilder {
    pub(super) fn new(worker: WorkerId, dir: PathBuf, key: TrailKey) -> Self {
        Self {
            worker,
            // Without a slash at its end, with which a symbolic link would be followed.
            dir: dir.components().collect(),
            key,
            settings: Settings::default(),
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// How long a critical record may take until its caller is told that it is not durable
    /// (default 5 s).
    pub fn critical_deadline(mut self, deadline: Duration) -> Self {
        self.settings.critical_deadline = deadline;
        self
    }

    /// Within which time an ordinary record is on disk (default 1 s). It is also what a killed
    /// process can lose.
    pub fn durable_within(mut self, interval: Duration) -> Self {
        self.settings.durable_within = interval;
        self
    }

    /// How many records may wait for the disk (default 16 384; critical ones have room for 1 024
    /// more). The room is reserved here, so that recording never allocates.
    pub fn queue_records(mut self, records: usize) -> Self {
        self.settings.queue_records = records;
        self
    }

    /// Puts a storage that fails on command behind the trail.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_storage_faults(mut self, faults: super::faults::StorageFaults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Opens the trail, creating it if the directory holds none, and records `TrailOpened`.
    pub fn open(self) -> Result<AuditTrail, OpenError> {
        self.settings.check()?;
        process::watch_for_forks().map_err(|source| OpenError::Io {
            path: PathBuf::from("/proc/self"),
            operation: "prepare to notice forks",
            source,
        })?;
        process::check()?;
        let directory = Directory::open(&self.dir)?;
        #[cfg(feature = "fault-injection")]
        if let Some(faults) = self.faults.clone() {
            return self.open_on(faults.over(directory));
        }
        self.open_on(directory)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            critical_deadline: DEFAULT_CRITICAL_DEADLINE,
            durable_within: DEFAULT_DURABLE_WITHIN,
            queue_records: DEFAULT_QUEUE_RECORDS,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), OpenError> {
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
        Ok(())
    }

    /// As `TrailOpened` states them.
    pub(super) fn configuration(&self) -> Configuration {
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut features = Vec::new();
        if cfg!(feature = "cli") {
            features.push("cli");
        }
        if cfg!(feature = "fault-injection") {
            features.push("fault-injection");
        }
        Configuration {
            crate_version: env!("CARGO_PKG_VERSION"),
            features,
            fault_injection: cfg!(feature = "fault-injection"),
            critical_deadline_ms: milliseconds(self.critical_deadline),
            durable_within_ms: milliseconds(self.durable_within),
            queue_records: self.queue_records as u64,
            reserved_records: RESERVED_RECORDS as u64,
        }
    }
}
