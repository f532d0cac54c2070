//! The answer to a caller about its record: the proof that it is durable, or the reason why it was
//! not yet. How records become durable is not known here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::event::{MAX_TEXT_BYTES, Seq};
use crate::process::{self, Forked};

/// Proves that a record is durable: holds its number, and a checkpoint that covers it.
#[derive(Clone, Debug)]
pub struct Receipt {
    seq: Seq,
    checkpoint: Arc<Checkpoint>,
}

/// Refers to a queued record, for [`NotDurable::ask_again`]. Keeps the trail's memory alive, but
/// keeps neither the trail open nor its writer alive.
#[derive(Clone, Default)]
pub struct Queued(Option<Arc<Accepted>>);

/// A record that a trail has accepted, and that trail.
struct Accepted {
    seq: Seq,
    trail: Arc<dyn Fates>,
}

/// Answers whether records became durable.
pub(crate) trait Fates: Send + Sync {
    /// Returns the final result of an accepted record, or `None` if it is still open.
    fn fate(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>>;
}

/// The reason why a record was not durable when its caller was answered. It may have become durable
/// since: [`ask_again`](Self::ask_again).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotDurable {
    /// The trail is closed. The record has no number.
    #[error("the trail is closed: keep it open until the last shard is released")]
    Closed,
    /// The disk did not answer in time. The record stays queued and may still be written.
    #[error(
        "record {seq} is not durable after {waited:?}: the disk does not answer; the record stays queued"
    )]
    DeadlineExceeded {
        /// The record's number.
        seq: Seq,
        /// How long the caller waited.
        waited: Duration,
        /// The record, for asking again.
        record: Queued,
    },
    /// A file that this trail's writer did not create has the name of the trail's next segment. The
    /// writer has ended, so that two writers never write one trail.
    #[error(
        "the trail's writer has stopped, since another file has the name of its next segment: find out who writes to the trail's directory, then open the trail again"
    )]
    Displaced,
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The record is lost and has no number. The disk has accepted no record for so long that all
    /// reserved numbers are used up. (After a kill, the next run skips the reserved numbers.) A
    /// later `RecordsLost` counts it.
    #[error(
        "a record is lost, without a number: the disk has taken nothing for so long that the trail's numbers are used up; see why it does not"
    )]
    NoNumber,
    /// The call was made inside code that the trail calls: a `tracing` subscriber, a metrics
    /// recorder, an anchor, a hook, a signer. The record is queued. If the disk works, it becomes
    /// durable within [`durable_within`](super::TrailBuilder::durable_within). It does not count as
    /// a failure.
    #[error(
        "record {seq} is queued and not durable yet: code that the trail calls does not wait for the trail"
    )]
    NotAwaited {
        /// The record's number.
        seq: Seq,
        /// The record, for asking again.
        record: Queued,
    },
    /// Even the room reserved for critical records is full. A later `RecordsLost` accounts for the
    /// number.
    #[error("record {seq} is lost: the trail's queue is full; see why the disk does not keep up")]
    QueueFull {
        /// The record's number.
        seq: Seq,
    },
    /// Writing failed. The record stays queued, and the writer retries.
    #[error(
        "record {seq} is not durable: {operation} failed ({cause}); the record stays queued and is tried again"
    )]
    WriteFailed {
        /// The record's number.
        seq: Seq,
        /// The failed operation: `write`, `sync`, `create segment`, ...
        operation: &'static str,
        /// The operating system's error text.
        cause: Arc<str>,
        /// The record, for asking again.
        record: Queued,
    },
    /// The writer's thread has ended.
    #[error(
        "the trail's writer has stopped and nothing more is recorded: see the log for why, and open the trail again"
    )]
    WriterStopped,
}

/// The reason why a note or a violation was not recorded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record was not durable yet. For a note: it was not queued.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
    /// A text is too long. Nothing was recorded.
    #[error("the text has {len} bytes: the most is {MAX_TEXT_BYTES}")]
    TooLong {
        /// The length of the text, in bytes.
        len: usize,
    },
}

/// The reason why closing failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// A file that this trail's writer did not create has the name of the trail's next segment. The
    /// writer ended before the trail was closed.
    #[error(
        "the trail's end is not on record and {records} records are lost: another file has the name of its next segment; find out who writes to the trail's directory"
    )]
    Displaced {
        /// The number of records that were not durable when the writer ended.
        records: u64,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The disk failed until the deadline, or so often before it that closing stopped trying. The
    /// trail's end (`TrailClosed`) is not on record, and records may be lost.
    #[error(
        "the trail's end is not on record and {records} records are lost: {operation} failed ({cause}; failures since closing began: {failures}); see what is wrong with the disk"
    )]
    NotWritten {
        /// The number of lost records. 0: all are on disk, and only the end is missing.
        records: u64,
        /// The last failed operation.
        operation: &'static str,
        /// The operating system's error text.
        cause: Arc<str>,
        /// The number of failures since closing began.
        failures: u64,
    },
    /// The disk does not answer. The queued records may or may not be written.
    #[error("the disk did not answer for {waited:?}: what was queued may be lost")]
    TimedOut {
        /// How long the caller waited.
        waited: Duration,
    },
    /// The writer's thread ended before the trail was closed.
    #[error("the trail's writer has stopped: its end is not on record")]
    WriterStopped,
}

impl NotDurable {
    /// Returns the record's receipt if it has become durable since. Does not wait.
    ///
    /// # Errors
    ///
    /// The reason why the record is not durable. There is never a receipt for:
    ///
    /// * a record that was refused,
    /// * a record whose writer ended before it was durable,
    /// * a call of [`flush`](super::Trail::flush).
    ///
    /// In a forked child the answer is the earlier one.
    pub fn ask_again(&self) -> Result<Receipt, Self> {
        self.fate().unwrap_or_else(|| Err(self.clone()))
    }

    /// Returns the record's final result, or `None` if it is still open. Does not wait.
    pub fn fate(&self) -> Option<Result<Receipt, Self>> {
        let (Self::DeadlineExceeded { record, .. }
        | Self::NotAwaited { record, .. }
        | Self::WriteFailed { record, .. }) = self
        else {
            return None;
        };
        // The number that the trail gave, and not the field, which anybody can fill.
        let accepted = record.0.as_ref()?;
        process::check().ok()?;
        accepted.trail.fate(accepted.seq)
    }

    /// Adds the trail to ask for the record, which that trail has accepted.
    pub(super) fn of_queued(mut self, trail: Arc<dyn Fates>) -> Self {
        if let Self::DeadlineExceeded { seq, record, .. }
        | Self::NotAwaited { seq, record }
        | Self::WriteFailed { seq, record, .. } = &mut self
        {
            let seq = *seq;
            *record = Queued(Some(Arc::new(Accepted { seq, trail })));
        }
        self
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").finish_non_exhaustive()
    }
}

impl Receipt {
    pub(super) fn new(seq: Seq, checkpoint: Arc<Checkpoint>) -> Self {
        Self { seq, checkpoint }
    }

    /// Returns the record's number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Returns a checkpoint that covers the record. It was synced together with the record or after
    /// it.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}
