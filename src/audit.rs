//! The audit trail of shards: a [trail](vram_trail) that records what this crate does, and nothing else.
//!
//! [`AuditTrail`] owns the trail: it is opened with a worker, a directory and a key, managers are
//! built from it, and [`close`](AuditTrail::close) says whether everything is on disk. Code outside the crate has
//! two calls to record, [`note`](AuditTrail::note) and [`policy_violation`](AuditTrail::policy_violation).
//!
//! This module joins the trail and the registry of living shards. How records become durable, how they are
//! verified, and how they lie on the disk ([`mod@format`]) is all `vram-trail`'s.

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

/// Settings of a trail to open or create: see [`AuditTrail::builder`].
pub type AuditTrailBuilder = vram_trail::TrailBuilder<Registry>;

/// The owner of a trail.
///
/// [`close`](Self::close) ends the trail at once, and alone tells the caller how that went. Without it the
/// trail stays open until the last of its handle, managers, shards and leases is dropped, in any order.
/// That drop writes `TrailClosed`, waits for it at most the critical deadline, and logs at ERROR what could
/// not be written. Inside code that the trail calls, an anchor for instance, it leaves that to a thread.
///
/// A lease that is never dropped, in a `static` for instance, keeps the trail open for ever: the process ends
/// without `TrailClosed`, and the next run records `TailRecovered`.
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
    /// Begins to open or create a trail: whose it is, the directory that holds it, and the key that
    /// signs it.
    pub fn builder(worker: WorkerId, dir: impl AsRef<Path>, key: TrailKey) -> AuditTrailBuilder {
        AuditTrailBuilder::new(Registry::new(), worker, dir, key)
    }

    /// The worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        self.0.worker()
    }

    /// The key with which anybody can check this trail.
    pub fn verifier_key(&self) -> &VerifierKey {
        self.0.verifier_key()
    }

    /// Records a text of at most [`MAX_TEXT_BYTES`] bytes as `Note`. Returns its number without
    /// waiting for the disk, and allocates nothing if given an `Arc<str>`.
    ///
    /// Never put secrets or personal data into a note: a trail is kept for years.
    pub fn note(&self, text: impl Into<Arc<str>>) -> Result<Seq, RecordError> {
        self.0.note(text)
    }

    /// Records a violation of the operator's policy, critical: returns once the record is durable,
    /// or the reason why it was not yet, which can be [asked again](NotDurable::ask_again).
    pub fn policy_violation(&self, violation: PolicyViolation<'_>) -> Result<Receipt, RecordError> {
        self.0.policy_violation(violation)
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline.
    pub fn flush(&self) -> Result<(), NotDurable> {
        self.0.flush()
    }

    /// Writes what is queued and `TrailClosed`, and returns the receipt of the latter: its
    /// checkpoint is the one to anchor. Shards that still live stay usable; whatever they record afterwards is
    /// refused and counted. `TrailClosed` says how many verifications have no outcome then; a check that has
    /// exceeded its deadline is on record before it, and leases end as they would have.
    ///
    /// Then the anchors get that checkpoint, and are waited for; one that does not keep it is logged
    /// at ERROR, and is no reason to fail: the trail is closed, and its receipt can still be anchored
    /// by hand. Waits at most the critical deadline, even if the disk hangs.
    pub fn close(self) -> Result<Receipt, CloseError> {
        self.0.close()
    }

    /// The newest checkpoint that is on disk; none in a forked child.
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.0.checkpoint()
    }

    /// The newest checkpoint that an anchor keeps, besides the log: what lies behind it could still be
    /// cut off unnoticed. None if no anchor has said that it keeps one, and in a forked child.
    pub fn anchored_until(&self) -> Option<Anchored> {
        self.0.anchored_until()
    }

    /// The age of the oldest record that no anchor covers, besides the log, durable or not. Zero if
    /// there is none, if there is no such anchor, and in a forked child.
    pub fn unanchored_for(&self) -> Duration {
        self.0.unanchored_for()
    }

    /// What waits to become durable: how many records, and the age of the oldest. A kill now would lose
    /// them. Nothing waits in a forked child.
    ///
    /// A worker whose disk is full goes on serving, and loses nothing until its queue is full: this is
    /// where it shows. Build a check of readiness on it:
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

    /// What was given to the trail, and what was lost, since it was opened.
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
