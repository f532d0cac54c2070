//! The builder of a trail: worker, directory, key, and the optional settings.
//!
//! This module knows which settings are valid and how `TrailOpened` states them. It does not know
//! how a trail is opened: see `open`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::anchor::{Anchor, MAX_ANCHORS, Named};
use super::event::MAX_TEXT_BYTES;
use super::open::OpenError;
use super::storage::{Directory, Presence};
use crate::application::Application;
use crate::foreign;
use crate::health::Degradation;
use crate::health::hook::Hook;
use crate::id::WorkerId;
use crate::key::{FileAccess, TrailKey};
use crate::process;

pub(crate) use settings::Settings;

mod settings;

/// The default time limit for a critical record.
pub const DEFAULT_CRITICAL_DEADLINE: Duration = Duration::from_secs(5);

/// The default time within which an ordinary record is durable.
pub const DEFAULT_DURABLE_WITHIN: Duration = Duration::from_secs(1);

/// The default limit for records that wait for the disk.
pub const DEFAULT_QUEUE_RECORDS: usize = 65_536;

/// The room for critical records beyond that limit, in records.
pub const RESERVED_RECORDS: usize = 1_024;

/// The default size, in bytes, at which the next segment is begun.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;

/// The default age at which the next segment is begun.
pub const DEFAULT_SEGMENT_AGE: Duration = Duration::from_secs(24 * 3600);

/// Configures a trail, and opens or creates it.
#[derive(Debug)]
#[must_use = "a builder does nothing until `open` is called"]
pub struct TrailBuilder<A: Application> {
    pub(super) application: Arc<A>,
    pub(super) worker: WorkerId,
    pub(super) dir: PathBuf,
    pub(super) key: TrailKey,
    pub(super) previous_key: Option<TrailKey>,
    pub(super) settings: Settings,
    pub(super) hook: Option<Hook>,
    pub(super) anchors: Vec<Named>,
    #[cfg(feature = "fault-injection")]
    faults: Option<super::faults::StorageFaults>,
}

/// How long records are to be kept, and why: a statement for the person or job that removes old
/// segments. This library never removes a segment.
///
/// The default, seven years, is this project's own policy and follows from no law.
///
/// ```
/// use vram_trail::Retention;
///
/// let retention = Retention::months(6, "EU AI Act, Article 26(6)");
/// assert_eq!(retention.to_string(), "P6M (EU AI Act, Article 26(6))");
/// ```
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Retention {
    /// The period in ISO 8601 format.
    period: Arc<str>,
    basis: Arc<str>,
    #[serde(skip)]
    is_zero: bool,
}

impl Retention {
    /// States a period in years, on a legal or other basis of 1 to [`MAX_TEXT_BYTES`] bytes.
    pub fn years(years: u16, basis: impl Into<Arc<str>>) -> Self {
        Self {
            period: format!("P{years}Y").into(),
            basis: basis.into(),
            is_zero: years == 0,
        }
    }

    /// States a period in months, on a legal or other basis of 1 to [`MAX_TEXT_BYTES`] bytes.
    pub fn months(months: u16, basis: impl Into<Arc<str>>) -> Self {
        Self {
            period: format!("P{months}M").into(),
            basis: basis.into(),
            is_zero: months == 0,
        }
    }

    fn makes_sense(&self) -> bool {
        !self.is_zero && (1..=MAX_TEXT_BYTES).contains(&self.basis.len())
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::years(7, "policy of the vram-residency project")
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.period, self.basis)
    }
}

impl<A: Application> TrailBuilder<A> {
    /// Begins to open or create the trail of an application. It needs the worker, the directory of
    /// the trail, and the key that signs it.
    pub fn new(
        application: Arc<A>,
        worker: WorkerId,
        dir: impl AsRef<Path>,
        key: TrailKey,
    ) -> Self {
        // Without a slash at its end, with which a symbolic link would be followed.
        let dir = dir.as_ref().components().collect();
        Self::with_dir(application, worker, dir, key)
    }

    fn with_dir(application: Arc<A>, worker: WorkerId, dir: PathBuf, key: TrailKey) -> Self {
        Self {
            application,
            worker,
            // Removes a trailing slash, which would make the system follow a symbolic link.
            dir,
            key,
            previous_key: None,
            settings: Settings::default(),
            hook: None,
            anchors: Vec::new(),
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// Sets how long a caller waits for a critical record (default 5 s). After that it gets the
    /// answer that the record is not durable. While the disk fails, the writer retries after at
    /// most a quarter of this time.
    pub fn critical_deadline(mut self, deadline: Duration) -> Self {
        self.settings.critical_deadline = deadline;
        self
    }

    /// Sets the time within which an ordinary record is on disk (default 1 s). A killed process can
    /// lose the records of this time.
    pub fn durable_within(mut self, interval: Duration) -> Self {
        self.settings.durable_within = interval;
        self
    }

    /// Sets how many records may wait for the disk (default 65 536). Critical records have room for
    /// 1 024 more. The room is reserved when the trail is opened, so that recording never
    /// allocates.
    ///
    /// The limit decides how long a disk may hang before ordinary records are lost: by default 0.2
    /// s at 300 000 records a second. Records go to the disk in the order of their numbers. So the
    /// limit also decides how many records a critical one may have before it. One write and sync
    /// takes 16 384 records.
    ///
    /// From its first use on, each place takes some 340 bytes of memory with the entries of
    /// `vram-residency`, by default 22 MiB in all.
    /// The texts of waiting records need memory in addition.
    pub fn queue_records(mut self, records: usize) -> Self {
        self.settings.queue_records = records;
        self
    }

    /// Sets a small reserve, so that a test soon runs out of numbers.
    #[cfg(test)]
    pub(super) fn reserved_records(mut self, records: usize) -> Self {
        self.settings.reserved_records = records;
        self
    }

    /// Sets the size at which the next segment is begun (default 64 MiB).
    ///
    /// A waiting critical record goes first. While there always is one, a segment grows to twice
    /// this size. A critical record that comes while the next segment is begun waits for some two
    /// more syncs.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.settings.segment_bytes = bytes;
        self
    }

    /// Sets the age at which the next segment is begun (default 24 h). Without new records, no
    /// segment is begun.
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.settings.segment_age = age;
        self
    }

    /// Sets who may use the trail's directory (default: its owner alone, which must be the
    /// process's user).
    ///
    /// With [`FileAccess::OwnerAndGroup`] its group may use it, too, as on a volume that Kubernetes
    /// mounts, and it may belong to root. A user who can write there can remove the trail; a user
    /// who can sign can continue it. A directory that the trail makes has mode 0700 all the same.
    /// `TrailOpened` records the choice (`directory_access`).
    pub fn directory_access(mut self, access: FileAccess) -> Self {
        self.settings.directory_access = access;
        self
    }

    /// Sets how long the records are to be kept, stated in each segment's header (default 7 years).
    pub fn retention(mut self, retention: Retention) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Sets the key that has signed the trail until now. Its last signature is the one under
    /// `KeyChanged`, the record that names the new key. Not used if the trail has the new key
    /// already.
    pub fn previous_key(mut self, key: TrailKey) -> Self {
        self.previous_key = Some(key);
        self
    }

    /// Sets the window in which lost records are compared with attempts (default five minutes):
    /// whole seconds, at most a day.
    pub fn failure_window(mut self, window: Duration) -> Self {
        self.settings.failure_window = window;
        self
    }

    /// Sets how many of a thousand records may be lost within the window (default 10, which is 1
    /// %). Above it, the trail is degraded and reports so. With 0, every lost record degrades it.
    pub fn failure_threshold_per_mille(mut self, records: u16) -> Self {
        self.settings.failure_threshold_per_mille = records;
        self
    }

    /// Sets the hook that is called when the trail degrades, and when it has recovered. It is
    /// called once for each crossing of the threshold, within seconds, whether or not the disk
    /// takes writes at that time.
    ///
    /// The hook has a thread of its own. It may take its time or panic: a panic is logged, and the
    /// hook is called again for the next crossing. Closing waits for it, at most the critical
    /// deadline. In a forked child it is never called.
    ///
    /// While the writer hangs in a system call, the hook is not called: watch
    /// [`HEARTBEAT`](crate::health::HEARTBEAT), too. A second call replaces the hook. Anything it
    /// owns that holds the trail's owner or a recorder keeps the trail open until it is closed.
    pub fn on_degraded(mut self, hook: impl FnMut(&Degradation) + Send + 'static) -> Self {
        self.hook = Some(Hook::new(hook));
        self
    }

    /// Adds an anchor, which also gets checkpoints. May be called again for others, at most 16.
    /// Opening waits until all that the anchors remember has been compared with the trail, at most
    /// the critical deadline. The rest is compared in the background, and a contradiction is
    /// recorded.
    pub fn anchor(mut self, anchor: impl Anchor) -> Self {
        self.anchors.push(Named::new(anchor));
        self
    }

    /// Sets after how many records anchors get a checkpoint (default 10 000). They also get one
    /// after every critical record and when the trail is closed.
    pub fn anchor_every_records(mut self, records: u64) -> Self {
        self.settings.anchor_every_records = records;
        self
    }

    /// Sets after which time new records are anchored (default 60 s). While the anchors work, this
    /// is the longest time for which a rewritten trail could go unnoticed. The writer checks it
    /// twice in each interval of [`durable_within`](Self::durable_within), and every few seconds at
    /// least.
    ///
    /// The maximum is one hour. The alert `VramAuditUnanchored` of `ops/alerts.yml` has a limit of
    /// 15 minutes. With an interval of about that or more it fires without a fault: raise its limit
    /// then.
    pub fn anchor_every(mut self, interval: Duration) -> Self {
        self.settings.anchor_every = interval;
        self
    }

    /// Puts a storage that fails on command behind the trail.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_storage_faults(mut self, faults: super::faults::StorageFaults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Opens the trail that the directory holds, and records `TrailOpened`. A service that has run
    /// before calls this method, so that it does not begin another trail where its volume is not
    /// mounted.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoTrail`] if there is no directory, or no segment in it. Nothing is created
    /// then. Every other variant of [`OpenError`] states its cause and what to do.
    pub fn open(self) -> Result<A::Handle, OpenError> {
        self.begin(Presence::Required)
    }

    /// Creates a new trail, and records `TrailOpened`. Makes the directory (mode 0700) if there is
    /// none. Its parent must exist.
    ///
    /// # Errors
    ///
    /// [`OpenError::Exists`] if the directory holds a segment. Nothing is changed then. Every other
    /// variant of [`OpenError`] states its cause and what to do.
    pub fn create(self) -> Result<A::Handle, OpenError> {
        self.begin(Presence::Refused)
    }

    /// Opens the trail that the directory holds ([`open`](Self::open)), or creates one if there is
    /// none ([`create`](Self::create)).
    ///
    /// A process that always calls this method begins a new trail where the old one is out of
    /// reach, and only an [`anchor`](Self::anchor) notices.
    ///
    /// # Errors
    ///
    /// Every variant of [`OpenError`] states its cause and what to do.
    pub fn open_or_create(self) -> Result<A::Handle, OpenError> {
        self.begin(Presence::Either)
    }

    fn begin(self, presence: Presence) -> Result<A::Handle, OpenError> {
        self.settings.check()?;
        if self.anchors.len() > MAX_ANCHORS || !Named::are_good(&self.anchors) {
            return Err(OpenError::Configuration {
                setting: "anchor",
                allowed: "at most 16 with different names of 1 to 256 printable characters, none of them `tracing`",
            });
        }
        process::watch_for_forks().map_err(|source| OpenError::ForkGuard { source })?;
        process::check()?;
        process::try_calls();
        foreign::start().map_err(|source| OpenError::Io {
            path: self.dir.clone(),
            operation: "start the threads that log and publish for",
            source,
        })?;
        let directory = Directory::open(&self.dir, presence, self.settings.directory_access)?;
        #[cfg(feature = "fault-injection")]
        if let Some(faults) = self.faults.clone() {
            return Ok(self.open_on(faults.over(directory), presence)?.into());
        }
        Ok(self.open_on(directory, presence)?.into())
    }
}
