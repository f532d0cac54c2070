//! The audit trail: the append-only, tamper-evident sequence of records of one worker.
//!
//! [`AuditTrail`] owns the trail: it is opened with a worker, a directory and a key, managers are
//! built from it, and [`close`](AuditTrail::close) says whether everything is on disk. What the
//! library records goes through a `Recorder`; code outside the crate has two calls,
//! [`note`](AuditTrail::note) and [`policy_violation`](AuditTrail::policy_violation).
//!
//! ```text
//! record -> queue (numbered, bounded) -> writer's thread -> one write, one sync -> receipt
//! ```
//!
//! How it lies on the disk is in [`mod@format`]. This module knows when a record is durable. It does not know what a shard or a device is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use anchor::{
    Anchor, AnchorError, Anchored, Contradiction, DEFAULT_ANCHOR_EVERY,
    DEFAULT_ANCHOR_EVERY_RECORDS, Listing, SameHostCopy, SocketAnchor,
};
pub use builder::{
    AuditTrailBuilder, DEFAULT_CRITICAL_DEADLINE, DEFAULT_DURABLE_WITHIN, DEFAULT_QUEUE_RECORDS,
    DEFAULT_SEGMENT_AGE, DEFAULT_SEGMENT_BYTES, RESERVED_RECORDS, Retention,
};
pub use checkpoint::{Checkpoint, NoteError, VerifierKey};
pub use event::{MAX_TEXT_BYTES, Reason, Seq};
pub use open::OpenError;
pub use proof::{
    MAX_PROOF_BYTES, Proof, ProofError, ProveError, newest_checkpoint, prove, stated_keys,
};
pub use receipt::{CloseError, NotDurable, Queued, Receipt, RecordError};
pub use unchecked::{UncheckedLine, read_unchecked};
pub use verify::{
    Accepted, AnchorReport, AnchorState, Finding, KeyReport, KilledRun, Missing, Outcome, Report,
    Runs, Unacknowledged, UnanchoredEnd, Verdict, verify, verify_with_progress,
};

pub use crate::verification::Incident;

use crate::foreign;
use crate::health::{AuditCounts, Vitals};
use crate::id::WorkerId;
use crate::key::TrailKey;
use crate::process;
use crate::registry::Registry;
use anchor::Anchors;
use builder::Settings;
use clock::Time;
use event::{By, Event, Mark, Violation};
use keeper::Keeper;
use queue::{Lane, Queue, Refused};

mod anchor;
mod backoff;
mod builder;
pub(crate) mod checkpoint;
pub(crate) mod clock;
pub(crate) mod critical;
pub(crate) mod event;
#[cfg(feature = "fault-injection")]
pub mod faults;
#[doc = include_str!("audit/FORMAT.md")]
pub mod format {}
mod files;
mod keeper;
mod log;
mod merkle;
mod open;
mod position;
mod proof;
mod queue;
mod receipt;
pub(crate) mod recheck;
mod record;
mod segment;
#[cfg(test)]
mod simulated;
mod standing;
mod storage;
pub(crate) mod sync;
mod unchecked;
mod verify;
mod writer;

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
pub struct AuditTrail {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
}

/// What owner, recorders and writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Queue,
    worker: WorkerId,
    verifier: VerifierKey,
    settings: Settings,
    registry: Arc<Registry>,
    anchors: Anchors,
    vitals: Vitals,
    /// Whether a record was refused because the trail is closed.
    refused: AtomicBool,
}

/// A handle on a trail, for the crate's own use. The trail stays open while there is one, unless its
/// owner closes it.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    _keeper: Arc<Keeper>,
}

/// A violation of the operator's own policy, to be put on record with
/// [`AuditTrail::policy_violation`]. Each text has at most [`MAX_TEXT_BYTES`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct PolicyViolation<'a> {
    /// The name of the policy.
    pub policy: &'a str,
    /// What was against it.
    pub violation: &'a str,
    /// What else a reviewer should know.
    pub details: &'a str,
    /// What was done about it.
    pub action: &'a str,
}

impl AuditTrail {
    /// Begins to open or create a trail: whose it is, the directory that holds it, and the key that
    /// signs it.
    pub fn builder(worker: WorkerId, dir: impl Into<PathBuf>, key: TrailKey) -> AuditTrailBuilder {
        AuditTrailBuilder::new(worker, dir.into(), key)
    }

    /// The worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        &self.shared.worker
    }

    /// The key with which anybody can check this trail.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.shared.verifier
    }

    /// Records a text of at most [`MAX_TEXT_BYTES`] bytes as `Note`. Returns its number without
    /// waiting for the disk, and allocates nothing if given an `Arc<str>`.
    ///
    /// Never put secrets or personal data into a note: a trail is kept for years.
    pub fn note(&self, text: impl Into<Arc<str>>) -> Result<Seq, RecordError> {
        self.shared.note(text.into())
    }

    /// Records a violation of the operator's policy, critical: returns once the record is durable,
    /// or the reason why it was not yet, which can be [asked again](NotDurable::ask_again).
    pub fn policy_violation(&self, violation: PolicyViolation<'_>) -> Result<Receipt, RecordError> {
        let PolicyViolation {
            policy,
            violation,
            details,
            action,
        } = violation;
        for text in [policy, violation, details, action] {
            check_length(text)?;
        }
        let event = Event::PolicyViolation {
            violation: Box::new(Violation {
                by: By::Caller,
                shard: None,
                policy: policy.into(),
                violation: violation.into(),
                details: details.into(),
                action: action.into(),
            }),
        };
        Ok(self.recorder().commit(event).1?)
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline.
    pub fn flush(&self) -> Result<(), NotDurable> {
        self.recorder().flush()
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
        self.keeper.close()
    }

    pub(crate) fn recorder(&self) -> Recorder {
        Recorder {
            shared: Arc::clone(&self.shared),
            _keeper: Arc::clone(&self.keeper),
        }
    }
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditTrail")
            .field("worker", &self.shared.worker)
            .field("verifier_key", &self.shared.verifier)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    pub(crate) fn worker(&self) -> &WorkerId {
        &self.shared.worker
    }

    /// Records without waiting. Never blocks on the disk, never allocates; what does not fit is
    /// counted and accounted for. In a forked child nothing happens.
    pub(crate) fn emit(&self, event: Event) -> Mark {
        if self.shared.queue.check_process().is_err() {
            return unnumbered();
        }
        // A loss is counted, logged and recorded by the queue and the writer.
        let lane = Lane::of(event.severity());
        self.shared.push(event, lane).0
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline; not at all
    /// inside foreign code.
    pub(crate) fn flush(&self) -> Result<(), NotDurable> {
        process::check()?;
        match self.shared.queue.hurry() {
            None => Ok(()),
            Some(last) if foreign::is_inside() => Err(not_awaited(last)),
            Some(last) => self
                .shared
                .queue
                .wait_durable(last, self.shared.settings.critical_deadline)
                .map(drop),
        }
    }

    /// The shards of this trail.
    pub(crate) fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    pub(crate) fn verification_ends(&self) {
        // From the first record on that was refused, its outcome may have been, too: it stays counted.
        if !self.shared.refused.load(Ordering::Relaxed) {
            self.registry().verification_ends();
        }
    }
}

impl Shared {
    /// Numbers and queues a record. One that comes when the trail is closed has no writer any more
    /// that would log and publish the loss: that is done here, the former once.
    fn push(self: &Arc<Self>, event: Event, lane: Lane) -> (Mark, Result<(), NotDurable>) {
        match self.queue.push(event, lane) {
            Ok((seq, time)) => {
                let seq = Some(seq);
                (Mark { seq, time }, Ok(()))
            }
            Err(refused) => (refused.mark, Err(self.tell_refused(refused))),
        }
    }

    /// What [`AuditTrail::note`] is for every kind of text. It is the record that a worker makes by
    /// itself, maybe one now and then, so its way through the code is short.
    fn note(self: &Arc<Self>, text: Arc<str>) -> Result<Seq, RecordError> {
        check_length(&text)?;
        self.queue.check_process().map_err(NotDurable::Forked)?;
        match self
            .queue
            .push(Event::Note { text: text.into() }, Lane::Ordinary)
        {
            Ok((seq, _)) => Ok(seq),
            Err(refused) => Err(self.tell_refused(refused).into()),
        }
    }

    #[cold]
    fn tell_refused(self: &Arc<Self>, refused: Refused) -> NotDurable {
        let Refused { event, error, .. } = refused;
        if matches!(
            error,
            NotDurable::Closed | NotDurable::Displaced | NotDurable::WriterStopped
        ) {
            // What foreign code hears of here it is not told again.
            if !foreign::is_inside() && !self.refused.swap(true, Ordering::Relaxed) {
                let error = error.clone();
                foreign::log(move || {
                    tracing::error!(event, %error, "records are lost from now on");
                });
            }
            self.publish_counters();
        }
        error
    }

    fn counts(&self) -> AuditCounts {
        self.queue.counters.read()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What was refused since the trail was closed has nobody else who waits until that is heard.
        if *self.refused.get_mut() {
            foreign::settle_briefly();
        }
    }
}

fn not_awaited(seq: Seq) -> NotDurable {
    NotDurable::NotAwaited {
        seq,
        record: Queued::default(),
    }
}

fn unnumbered() -> Mark {
    Mark {
        seq: None,
        time: Time::now(),
    }
}

fn check_length(text: &str) -> Result<(), RecordError> {
    match text.len() {
        len if len > MAX_TEXT_BYTES => Err(RecordError::TooLong { len }),
        _ => Ok(()),
    }
}
