#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! [`Trail`] owns a trail. It is opened with a worker, a directory and a key, and
//! [`close`](Trail::close) returns whether every record is on disk. An [`Application`] defines
//! which entries can be recorded. A [`Recorder`] records an entry without waiting
//! ([`emit`](Recorder::emit)) or waits until it is durable ([`commit`](Recorder::commit)).
//! [`verify`] checks a trail, [`prove`] extracts one record with its proof, and an [`Anchor`] keeps
//! checkpoints outside the trail.
//!
//! ```text
//! record -> queue (numbered, bounded) -> writer's thread -> one write, one sync -> receipt
//! ```
//!
//! [`mod@format`] describes the files on disk. This crate knows when a record is durable. It does
//! not know what the entries of an application mean.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "x86_64")
)))]
compile_error!(
    "vram-trail supports Linux on x86-64 and AArch64 only: durable records rest on Linux system calls, signatures on instructions of these processors"
);

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use anchor::{
    Anchor, AnchorError, Anchored, Contradiction, DEFAULT_ANCHOR_EVERY,
    DEFAULT_ANCHOR_EVERY_RECORDS, Listing, SameHostCopy, SocketAnchor,
};
pub use application::{
    Application, Entry, MAX_ENTRY_BYTES, MAX_OPENING_BYTES, NoEntry, NoFields, Plain,
};
pub use builder::{
    DEFAULT_CRITICAL_DEADLINE, DEFAULT_DURABLE_WITHIN, DEFAULT_QUEUE_RECORDS, DEFAULT_SEGMENT_AGE,
    DEFAULT_SEGMENT_BYTES, RESERVED_RECORDS, Retention, TrailBuilder,
};
pub use checkpoint::{Checkpoint, NoteError, VerifierKey};
pub use critical::Submitted;
pub use event::{MAX_TEXT_BYTES, Mark, OWN_EVENTS, Seq, Severity, Text};
pub use id::WorkerId;
pub use key::TrailKey;
pub use open::OpenError;
pub use proof::{
    MAX_PROOF_BYTES, Proof, ProofError, ProveError, newest_checkpoint, prove, stated_keys,
};
use receipt::Fates;
pub use receipt::{CloseError, NotDurable, Queued, Receipt, RecordError};
pub use unchecked::{UncheckedLine, read_unchecked};
pub use verify::{
    Accepted, AnchorReport, AnchorState, Finding, KeyReport, KilledRun, Missing, Outcome, Progress,
    Report, Runs, Unacknowledged, UnanchoredEnd, Verdict, verify, verify_with_progress,
};

use anchor::Anchors;
use builder::Settings;
use clock::Time;
use event::{Event, Violation};
use health::{AuditCounts, Vitals};
use keeper::Keeper;
use queue::{Lane, Queue, Refused};

mod anchor;
mod application;
mod backoff;
mod builder;
mod checkpoint;
pub mod clock;
mod critical;
mod event;
#[cfg(feature = "fault-injection")]
pub mod faults;
pub mod foreign;
#[doc = include_str!("../FORMAT.md")]
pub mod format {}
mod files;
pub mod health;
pub mod id;
mod keeper;
pub mod key;
mod log;
mod merkle;
mod open;
mod position;
pub mod process;
mod proof;
mod queue;
mod receipt;
mod recheck;
mod record;
mod segment;
#[cfg(all(test, not(all(shuttle, feature = "shuttle"))))]
mod simulated;
#[cfg(all(shuttle, feature = "shuttle"))]
#[doc(hidden)]
#[allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
pub mod simulated;
mod status;
mod storage;
#[doc(hidden)]
pub mod threads;
mod unchecked;
mod verify;
mod writer;

/// The `tracing` target of all log messages of this crate, except checkpoints.
const LOG: &str = "vram_residency::audit";

/// The `tracing` target of checkpoints, by which a log collector serves as an anchor.
const LOG_OF_CHECKPOINTS: &str = "vram_residency::checkpoint";

/// Owns a trail.
///
/// [`close`](Self::close) ends the trail at once, and is the only call that returns how the end
/// went. Without it, the trail stays open until its owner and all its [`Recorder`]s are dropped, in
/// any order. The last drop writes `TrailClosed`, waits for it at most the critical deadline, and
/// logs at ERROR what could not be written. Inside code that the trail calls, such as an anchor, a
/// separate thread does this.
///
/// A recorder that is never dropped, for instance one in a `static`, keeps the trail open for ever.
/// The process then ends without `TrailClosed`, and the next run records `TailRecovered`.
///
/// ```no_run
/// use vram_trail::{Trail, TrailKey};
///
/// let key = TrailKey::open("/etc/worker/trail-key.pem")?;
/// let trail = Trail::builder("worker-1".parse()?, "/var/lib/worker/trail", key).open()?;
/// println!("verifier key: {}", trail.verifier_key());
/// trail.note("the model is loaded")?;
/// let receipt = trail.close()?;
/// println!("closed, anchor this:\n{}", receipt.checkpoint());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trail<A: Application = Plain> {
    shared: Arc<Shared<A>>,
    keeper: Arc<Keeper<A>>,
}

/// The state that owner, recorders and writer share.
#[derive(Debug)]
pub(crate) struct Shared<A: Application> {
    queue: Queue<A>,
    worker: WorkerId,
    verifier: VerifierKey,
    settings: Settings,
    application: Arc<A>,
    anchors: Anchors,
    vitals: Vitals,
    /// Whether a record was refused because the trail is closed.
    refused: AtomicBool,
}

/// Records the application's entries. A recorder keeps the trail open until the owner closes it.
#[derive(Debug)]
pub struct Recorder<A: Application = Plain> {
    shared: Arc<Shared<A>>,
    _keeper: Arc<Keeper<A>>,
}

/// Describes a violation of the operator's own policy, recorded by [`Trail::policy_violation`].
/// Each text has at most [`MAX_TEXT_BYTES`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct PolicyViolation<'a> {
    /// The name of the policy.
    pub policy: &'a str,
    /// How the policy was violated.
    pub violation: &'a str,
    /// Further facts for a reviewer.
    pub details: &'a str,
    /// The action taken.
    pub action: &'a str,
}

impl<A: Application> Trail<A> {
    /// Returns the worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        &self.shared.worker
    }

    /// Returns the public key with which anyone can check this trail.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.shared.verifier
    }

    /// Records a text of at most [`MAX_TEXT_BYTES`] bytes as `Note`, and returns its number without
    /// waiting for the disk. Does not allocate if given an `Arc<str>`.
    ///
    /// Never put secrets or personal data into a note: a trail is kept for years.
    ///
    /// # Errors
    ///
    /// * [`RecordError::TooLong`]: the text is too long. Nothing was recorded; shorten it.
    /// * [`RecordError::NotDurable`]: the note was not queued, for the reason inside.
    pub fn note(&self, text: impl Into<Arc<str>>) -> Result<Seq, RecordError> {
        self.shared.note(text.into())
    }

    /// Records a violation of the operator's policy as a critical record, and returns once it is
    /// durable.
    ///
    /// # Errors
    ///
    /// * [`RecordError::TooLong`]: a text is too long. Nothing was recorded; shorten it.
    /// * [`RecordError::NotDurable`]: the record was not durable in time, for the reason inside. It
    ///   may become durable later: [ask again](NotDurable::ask_again).
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
                policy: policy.into(),
                violation: violation.into(),
                details: details.into(),
                action: action.into(),
            }),
        };
        let recorder = self.recorder();
        Ok(recorder.answer(recorder.submit_event(event)).1?)
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline.
    ///
    /// # Errors
    ///
    /// [`NotDurable`] with the reason why a record is not durable yet.
    pub fn flush(&self) -> Result<(), NotDurable> {
        self.recorder().flush()
    }

    /// Closes the trail: writes the queued records and `TrailClosed`, and returns the receipt of
    /// `TrailClosed`. Its checkpoint is the one to anchor. Recorders stay usable, but later records
    /// are refused and counted.
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
        self.keeper.close()
    }

    /// Returns a handle that records the application's entries and keeps the trail open.
    pub fn recorder(&self) -> Recorder<A> {
        Recorder {
            shared: Arc::clone(&self.shared),
            _keeper: Arc::clone(&self.keeper),
        }
    }
}

impl<A: Application> fmt::Debug for Trail<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trail")
            .field("worker", &self.shared.worker)
            .field("verifier_key", &self.shared.verifier)
            .finish_non_exhaustive()
    }
}

impl<A: Application> Clone for Recorder<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            _keeper: Arc::clone(&self._keeper),
        }
    }
}

impl<A: Application> Recorder<A> {
    /// Returns the worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        &self.shared.worker
    }

    /// Records an entry without waiting. Never blocks on the disk and never allocates. An entry
    /// that does not fit into the queue is lost and counted, and a later record reports the loss.
    /// In a forked child the call does nothing.
    pub fn emit(&self, entry: impl Into<A::Entry>) -> Mark {
        if self.shared.queue.check_process().is_err() {
            return unnumbered();
        }
        // The queue and the writer count, log and record a loss.
        let event = Event::Entry(entry.into());
        let lane = Lane::of(event.severity());
        self.shared.push(event, lane).0
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline. Does not
    /// wait inside code that the trail calls.
    ///
    /// # Errors
    ///
    /// [`NotDurable`] with the reason why a record is not durable yet.
    pub fn flush(&self) -> Result<(), NotDurable> {
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

    /// Returns the application.
    pub fn application(&self) -> &Arc<A> {
        &self.shared.application
    }

    /// Returns whether a record was refused because the trail is closed.
    pub fn has_refused(&self) -> bool {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl<A: Application> Shared<A> {
    /// Numbers and queues a record. After the trail is closed there is no writer to log and publish
    /// a loss, so this function does both. It logs only the first loss.
    fn push(self: &Arc<Self>, event: Event<A>, lane: Lane) -> (Mark, Result<(), NotDurable>) {
        match self.queue.push(event, lane) {
            Ok((seq, time)) => {
                let seq = Some(seq);
                (Mark { seq, time }, Ok(()))
            }
            Err(refused) => (refused.mark, Err(self.tell_refused(refused))),
        }
    }

    /// Records a text, for [`Trail::note`]. A process may record a single note now and then, so
    /// this code path is short.
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
            // Foreign code is not informed again of a refusal that it caused.
            if !foreign::is_inside() && !self.refused.swap(true, Ordering::Relaxed) {
                let error = error.clone();
                foreign::log(move || {
                    tracing::error!(target: crate::LOG, event, %error, "records are lost from now on");
                });
            }
            self.publish_counters();
        }
        error
    }

    fn closing_event(&self) -> Event<A> {
        Event::TrailClosed {
            closing: self.application.closing(),
        }
    }

    fn counts(&self) -> AuditCounts {
        self.queue.counters.read()
    }
}

impl<A: Application> Fates for Shared<A> {
    fn fate(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>> {
        self.queue.fate(seq)
    }
}

impl<A: Application> Drop for Shared<A> {
    fn drop(&mut self) {
        // Nothing else publishes the records that were refused after the trail was closed.
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
    Mark::unnumbered(Time::now())
}

fn check_length(text: &str) -> Result<(), RecordError> {
    match text.len() {
        len if len > MAX_TEXT_BYTES => Err(RecordError::TooLong { len }),
        _ => Ok(()),
    }
}
