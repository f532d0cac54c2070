#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! [`Trail`] owns a trail: it is opened with a worker, a directory and a key, and [`close`](Trail::close) returns
//! whether everything is on disk. An [`Application`] defines what can be recorded. A [`Recorder`] records it, without
//! waiting ([`emit`](Recorder::emit)) or until the record is durable ([`commit`](Recorder::commit)). [`verify`] checks
//! a trail, [`prove`] takes one record out of it, [`Anchor`] keeps checkpoints elsewhere.
//!
//! ```text
//! record -> queue (numbered, bounded) -> writer's thread -> one write, one sync -> receipt
//! ```
//!
//! How a trail lies on the disk is in [`mod@format`]. This crate knows when a record is durable. It knows no
//! application.

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
#[cfg(all(test, not(shuttle)))]
mod simulated;
#[cfg(shuttle)]
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

/// The target of all that this crate logs.
const LOG: &str = "vram_residency::audit";

/// The target of checkpoints in the log, which make a log collector an anchor.
const LOG_OF_CHECKPOINTS: &str = "vram_residency::checkpoint";

/// The owner of a trail.
///
/// [`close`](Self::close) ends the trail at once, and alone tells the caller how that went. Without it the
/// trail stays open until the last of it and its [`Recorder`]s is dropped, in any order.
/// That drop writes `TrailClosed`, waits for it at most the critical deadline, and logs at ERROR what could
/// not be written. Inside code that the trail calls, an anchor for instance, it leaves that to a thread.
///
/// A recorder that is never dropped, in a `static` for instance, keeps the trail open for ever: the process ends
/// without `TrailClosed`, and the next run records `TailRecovered`.
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

/// What owner, recorders and writer share.
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

/// A handle that records. The trail stays open while there is one, unless its owner closes it.
#[derive(Debug)]
pub struct Recorder<A: Application = Plain> {
    shared: Arc<Shared<A>>,
    _keeper: Arc<Keeper<A>>,
}

/// A violation of the operator's own policy, to be put on record with
/// [`Trail::policy_violation`]. Each text has at most [`MAX_TEXT_BYTES`] bytes.
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

impl<A: Application> Trail<A> {
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
    pub fn flush(&self) -> Result<(), NotDurable> {
        self.recorder().flush()
    }

    /// Writes what is queued and `TrailClosed`, and returns the receipt of the latter: its
    /// checkpoint is the one to anchor. Recorders stay usable; what they record afterwards is refused and counted.
    ///
    /// Then the anchors get that checkpoint, and are waited for; one that does not keep it is logged
    /// at ERROR, and is no reason to fail: the trail is closed, and its receipt can still be anchored
    /// by hand. Waits at most the critical deadline, even if the disk hangs.
    pub fn close(self) -> Result<Receipt, CloseError> {
        self.keeper.close()
    }

    /// A handle that records the application's entries, and keeps the trail open.
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
    /// The worker whose trail this is.
    pub fn worker(&self) -> &WorkerId {
        &self.shared.worker
    }

    /// Records without waiting. Never blocks on the disk, never allocates; what does not fit is
    /// counted and accounted for. In a forked child nothing happens.
    pub fn emit(&self, entry: impl Into<A::Entry>) -> Mark {
        if self.shared.queue.check_process().is_err() {
            return unnumbered();
        }
        // A loss is counted, logged and recorded by the queue and the writer.
        let event = Event::Entry(entry.into());
        let lane = Lane::of(event.severity());
        self.shared.push(event, lane).0
    }

    /// Waits until everything recorded so far is durable, at most the critical deadline; not at all
    /// inside foreign code.
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

    /// The application.
    pub fn application(&self) -> &Arc<A> {
        &self.shared.application
    }

    /// Whether a record was refused because the trail is closed.
    pub fn has_refused(&self) -> bool {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl<A: Application> Shared<A> {
    /// Numbers and queues a record. One that comes when the trail is closed has no writer any more
    /// that would log and publish the loss: that is done here, the former once.
    fn push(self: &Arc<Self>, event: Event<A>, lane: Lane) -> (Mark, Result<(), NotDurable>) {
        match self.queue.push(event, lane) {
            Ok((seq, time)) => {
                let seq = Some(seq);
                (Mark { seq, time }, Ok(()))
            }
            Err(refused) => (refused.mark, Err(self.tell_refused(refused))),
        }
    }

    /// What [`Trail::note`] is for every kind of text. It is the record that a worker makes by
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
    Mark::unnumbered(Time::now())
}

fn check_length(text: &str) -> Result<(), RecordError> {
    match text.len() {
        len if len > MAX_TEXT_BYTES => Err(RecordError::TooLong { len }),
        _ => Ok(()),
    }
}
