//! What a caller learns about a record: the proof that it is durable, or the reason why it was not yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::event::{MAX_TEXT_BYTES, Seq};
use crate::process::{self, Forked};

/// Proof that a record is durable: its number, and a checkpoint that covers it.
#[derive(Clone, Debug)]
pub struct Receipt {
    seq: Seq,
    checkpoint: Arc<Checkpoint>,
}

/// A record that stays queued, by which [`NotDurable::ask_again`] asks for it. Keeps the trail's memory, and
/// neither the trail open nor its writer alive.
#[derive(Clone, Default)]
pub struct Queued(Option<Arc<dyn Fates>>);

/// Knows what has become of records.
pub(crate) trait Fates: Send + Sync {
    /// What has become of an accepted record, if that is final.
    fn fate(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>>;
}

/// Why a record was not durable when its caller was answered. It may have become durable since:
/// [`ask_again`](Self::ask_again).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotDurable {
    /// The trail is closed; the record has no number.
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
        /// For asking again.
        record: Queued,
    },
    /// The name of the trail's next segment is taken by a file that this trail's writer has not put
    /// there. The writer has ended, so that no trail is written by two.
    #[error(
        "the trail's writer has stopped, since another file has the name of its next segment: find out who writes to the trail's directory, then open the trail again"
    )]
    Displaced,
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The record is lost and has no number: the numbers that a run after a kill would pass over are
    /// used up, and the disk takes no record that reserves more. It is counted in a later
    /// `RecordsLost`.
    #[error(
        "a record is lost, without a number: the disk has taken nothing for so long that the trail's numbers are used up; see why it does not"
    )]
    NoNumber,
    /// The call was made from inside code that the trail calls: a `tracing` subscriber, a metrics
    /// recorder, an anchor, a hook, a signer. The record is queued; it is durable within the time set by
    /// [`durable_within`](super::TrailBuilder::durable_within) if the disk works. Nothing is
    /// counted as a failure.
    #[error(
        "record {seq} is queued and not durable yet: code that the trail calls does not wait for the trail"
    )]
    NotAwaited {
        /// The record's number.
        seq: Seq,
        /// For asking again.
        record: Queued,
    },
    /// Even the room that is reserved for critical records is full. The number is accounted for by
    /// a later `RecordsLost`.
    #[error("record {seq} is lost: the trail's queue is full; see why the disk does not keep up")]
    QueueFull {
        /// The record's number.
        seq: Seq,
    },
    /// Writing failed. The record stays queued and is tried again.
    #[error(
        "record {seq} is not durable: {operation} failed ({cause}); the record stays queued and is tried again"
    )]
    WriteFailed {
        /// The record's number.
        seq: Seq,
        /// What failed: `write`, `sync`, `create segment`, ...
        operation: &'static str,
        /// The system's words.
        cause: Arc<str>,
        /// For asking again.
        record: Queued,
    },
    /// The writer's thread has ended.
    #[error(
        "the trail's writer has stopped and nothing more is recorded: see the log for why, and open the trail again"
    )]
    WriterStopped,
}

/// Why a note or a violation was not taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record was not durable yet, or, for a note, not even queued.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
    /// A text is too long. Nothing was recorded.
    #[error("the text has {len} bytes: the most is {MAX_TEXT_BYTES}")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
}

/// Why closing did not end well.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The name of the trail's next segment is taken by a file that this trail's writer has not put
    /// there. The writer ended before the trail was closed.
    #[error(
        "the trail's end is not on record and {records} records are lost: another file has the name of its next segment; find out who writes to the trail's directory"
    )]
    Displaced {
        /// How many were not durable when the writer ended.
        records: u64,
    },
    /// The call was made in a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The disk failed until the deadline, or gave no hope before that: the trail's end
    /// (`TrailClosed`) is not on record, and records may be lost.
    #[error(
        "the trail's end is not on record and {records} records are lost: {operation} failed ({cause}; failures since closing began: {failures}); see what is wrong with the disk"
    )]
    NotWritten {
        /// How many records are lost. 0: all are on disk, and only the end is missing.
        records: u64,
        /// What failed last.
        operation: &'static str,
        /// The system's words.
        cause: Arc<str>,
        /// How often something failed since closing began.
        failures: u64,
    },
    /// The disk does not answer; what was queued may or may not be written.
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
    /// The record's receipt, if it has become durable since; otherwise why not. Does not wait.
    ///
    /// There is never a receipt for a record that was refused, for one whose writer ended before it was
    /// durable, or for what [`flush`](super::Trail::flush) waited for. A forked child gets the answer
    /// from before.
    pub fn ask_again(&self) -> Result<Receipt, Self> {
        self.fate().unwrap_or_else(|| Err(self.clone()))
    }

    /// What has become of the record since, if that is final. Does not wait.
    pub fn fate(&self) -> Option<Result<Receipt, Self>> {
        let (Self::DeadlineExceeded { seq, record, .. }
        | Self::NotAwaited { seq, record }
        | Self::WriteFailed { seq, record, .. }) = self
        else {
            return None;
        };
        let trail = record.0.as_ref()?;
        process::check().ok()?;
        trail.fate(*seq)
    }

    /// Lets the record, which was accepted by this trail, be asked for.
    pub(super) fn of_queued(mut self, trail: Arc<dyn Fates>) -> Self {
        if let Self::DeadlineExceeded { record, .. }
        | Self::NotAwaited { record, .. }
        | Self::WriteFailed { record, .. } = &mut self
        {
            *record = Queued(Some(trail));
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

    /// The record's number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// A checkpoint that covers the record; synced together with it, or after it.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}
