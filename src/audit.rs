//! The audit trail of shards: a [trail](vram_trail) that records what this crate does, and nothing
//! else.
//!
//! [`AuditTrail`] owns the trail. It is opened with a worker, a directory and a key, managers are
//! built from it, and [`close`](AuditTrail::close) returns whether every record is on disk. Code
//! outside the crate can record in two ways: [`note`](AuditTrail::note) and
//! [`policy_violation`](AuditTrail::policy_violation).
//!
//! This module joins the trail and the registry of living shards. How records become durable, how
//! they are verified, and the files on disk ([`mod@format`]) are the subject of `vram-trail`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vram_trail::{Application, Trail};

pub use crate::event::Reason;
pub use crate::verification::Incident;
#[cfg(feature = "fault-injection")]
pub use vram_trail::faults;
#[doc(inline)]
pub use vram_trail::format;
pub use vram_trail::{
    Accepted, Anchor, AnchorError, AnchorReport, AnchorState, Anchored, Checkpoint, CloseError,
    Contradiction, DEFAULT_ANCHOR_EVERY, DEFAULT_ANCHOR_EVERY_RECORDS, DEFAULT_CRITICAL_DEADLINE,
    DEFAULT_DURABLE_WITHIN, DEFAULT_QUEUE_RECORDS, DEFAULT_SEGMENT_AGE, DEFAULT_SEGMENT_BYTES,
    Finding, KeyReport, KilledRun, Listing, MAX_PROOF_BYTES, MAX_TEXT_BYTES, Missing, NotDurable,
    NoteError, OpenError, Outcome, PolicyViolation, Progress, Proof, ProofError, ProveError,
    Queued, RESERVED_RECORDS, Receipt, RecordError, Report, Retention, Runs, SameHostCopy, Seq,
    SocketAnchor, Unacknowledged, UnanchoredEnd, UncheckedLine, Verdict, VerifierKey,
    newest_checkpoint, prove, read_unchecked, stated_keys, verify, verify_with_progress,
};

use crate::event::{Closing, Entry, Opening};
use crate::health::{AuditCounts, Backlog};
use crate::id::WorkerId;
use crate::key::TrailKey;
use crate::registry::{Recorder, Registry};

/// Configures a trail, and opens or creates it: see [`AuditTrail::builder`].
pub type AuditTrailBuilder = vram_trail::TrailBuilder<Registry>;

/// Owns a trail.
///
/// [`close`](Self::close) ends the trail at once, and is the only call that returns how the end
/// went. Without it, the trail stays open until its handle and all its managers, shards and leases
/// are dropped, in any order. The last drop writes `TrailClosed`, waits for it at most the critical
/// deadline, and logs at ERROR what could not be written. Inside code that the trail calls, such as
/// an anchor, a separate thread does this.
///
/// A lease that is never dropped, for instance one in a `static`, keeps the trail open for ever.
/// The process then ends without `TrailClosed`, and the next run records `TailRecovered`.
///
/// ```no_run
/// use vram_residency::{AuditTrail, TrailKey};
///
/// let key = TrailKey::open("/etc/worker/trail-key.pem")?;
/// let trail = AuditTrail::builder("worker-1".parse()?, "/var/lib/worker/trail", key).open()?;
/// println!("verifier key: {}", trail.verifier_key());
/// // ... managers are built from `&trail` ...
/// let receipt = trail.close()?;
/// println!("closed, anchor this:\n{}", receipt.checkpoint());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AuditTrail(Trail<Registry>);

impl AuditTrail {
    /// Begins to open or create a trail. It needs the worker, the directory of the trail, and the
    /// key that signs it.
    pub fn builder(worker: WorkerId, dir: impl AsRef<Path>, key: TrailKey) -> AuditTrailBuilder {
        AuditTrailBuilder::new(Registry::new(), worker, dir, key)
    }

    /// Returns the worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        self.0.worker()
    }

    /// Returns the public key with which anyone can check this trail.
    pub fn verifier_key(&self) -> &VerifierKey {
        self.0.verifier_key()
    }

    /// Records a text of at most [`MAX_TEXT_BYTES`] bytes as `Note`, and returns its number without
    /// waiting for the disk. Does not allocate if given an `Arc<str>`.
    ///
    /// Never put secrets or personal data into a note: a trail is kept for years.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if the text is too long, or if the note was not queued.
    pub fn note(&self, text: impl Into<Arc<str>>) -> Result<Seq, RecordError> {
        self.0.note(text)
    }

    /// Records a violation of the operator's policy as a critical record, and returns once it is
    /// durable.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if a text is too long, or if the record was not durable in time. In the
    /// latter case it may become durable later: [ask again](NotDurable::ask_again).
    pub fn policy_violation(&self, violation: PolicyViolation<'_>) -> Result<Receipt, RecordError> {
        self.0.policy_violation(violation)
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline.
    ///
    /// # Errors
    ///
    /// [`NotDurable`] with the reason why a record is not durable yet.
    pub fn flush(&self) -> Result<(), NotDurable> {
        self.0.flush()
    }

    /// Closes the trail: writes the queued records and `TrailClosed`, and returns the receipt of
    /// `TrailClosed`. Its checkpoint is the one to anchor. Shards that still live stay usable, but
    /// their later records are refused and counted. `TrailClosed` states how many verifications
    /// have no outcome then. A check that has exceeded its deadline is recorded before it, and its
    /// leases end as usual.
    ///
    /// The anchors then get that checkpoint, and the call waits for them. An anchor that does not
    /// keep it is logged at ERROR, but is no error of this call: the trail is closed, and the
    /// receipt can still be anchored by hand. The call waits at most the critical deadline, even if
    /// the disk hangs.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with the reason why the end is not on record, and how many records may be
    /// lost.
    pub fn close(self) -> Result<Receipt, CloseError> {
        self.0.close()
    }

    /// Returns the newest checkpoint that is on disk, or `None` in a forked child.
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.0.checkpoint()
    }

    /// Returns the newest checkpoint that an anchor, other than the log, keeps. Records behind it
    /// could still be cut off unnoticed. `None` if no anchor has acknowledged one, and in a forked
    /// child.
    pub fn anchored_until(&self) -> Option<Anchored> {
        self.0.anchored_until()
    }

    /// Returns the age of the oldest record, durable or not, that no anchor other than the log
    /// covers. Zero if there is none, if there is no such anchor, and in a forked child.
    pub fn unanchored_for(&self) -> Duration {
        self.0.unanchored_for()
    }

    /// Returns how many records wait to become durable, and the age of the oldest. A kill now would
    /// lose them. Zero in a forked child.
    ///
    /// A worker whose disk is full goes on serving, and loses nothing until its queue is full.
    /// Until then, only this value shows the fault. Build a readiness check on it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use vram_residency::AuditTrail;
    /// fn is_ready(trail: &AuditTrail) -> bool {
    ///     trail.backlog().oldest < Duration::from_secs(60)
    /// }
    /// ```
    pub fn backlog(&self) -> Backlog {
        self.0.backlog()
    }

    /// Returns how many records were given to the trail, and how many were lost, since it was
    /// opened.
    pub fn counts(&self) -> AuditCounts {
        self.0.counts()
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.0.recorder()
    }
}

impl From<Trail<Registry>> for AuditTrail {
    fn from(trail: Trail<Registry>) -> Self {
        Self(trail)
    }
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditTrail")
            .field("worker", self.worker())
            .field("verifier_key", self.verifier_key())
            .finish_non_exhaustive()
    }
}

impl Application for Registry {
    type Entry = Entry;
    type Opening = Opening;
    type Closing = Closing;
    type Handle = AuditTrail;

    fn opening(&self) -> Opening {
        crate::device::try_calls();
        let mut features = Vec::new();
        if cfg!(feature = "cuda") {
            features.push("cuda");
        }
        if cfg!(feature = "fault-injection") {
            features.push("fault-injection");
        }
        Opening {
            crate_version: env!("CARGO_PKG_VERSION"),
            features,
            #[cfg(feature = "cuda")]
            kernel_sha256: Some(crate::device::kernel_sha256()),
            #[cfg(not(feature = "cuda"))]
            kernel_sha256: None,
        }
    }

    fn closing(&self) -> Closing {
        Self::closing(self)
    }

    fn tick(&self) {
        Self::tick(self);
    }

    fn settled(&self) {
        self.look_at_late();
    }
}
