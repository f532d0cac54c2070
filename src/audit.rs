//! The audit trail (stub: interface).
pub(crate) mod checkpoint;
pub(crate) mod event;
pub(crate) mod guard;
mod segment;
mod verify;
pub use checkpoint::{Checkpoint, NoteError, VerifierKey};
pub use event::{Reason, Seq};
pub use guard::Incident;
pub use verify::{AnchorReport, AnchorState, Finding, Outcome, Report, Unacknowledged, verify};
use event::{Event, LiveShard, Mark, Subject};
use crate::id::{ShardId, WorkerId};
use std::sync::{Arc, Weak};

/// Proof that a record is durable: its number, and a checkpoint that covers it.
#[derive(Clone, Debug)]
pub struct Receipt { seq: Seq, checkpoint: Checkpoint }
impl Receipt {
    /// The record's number.
    pub fn seq(&self) -> Seq { self.seq }
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint { &self.checkpoint }
}
/// Why a record is not durable.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotDurable {
    /// closed
    #[error("closed")]
    Closed,
}
/// A handle on a trail, for the crate's own use.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {}
/// Something that can become overdue; asked about once in a while by the writer's thread.
pub(crate) trait Watched: Send + Sync { fn tick(&self); }
impl Recorder {
    pub(crate) fn worker(&self) -> &WorkerId { unimplemented!() }
    /// Records without waiting. Never blocks on the disk, never allocates.
    pub(crate) fn emit(&self, _event: Event) -> Mark { unimplemented!() }
    /// Records, and waits until the record is durable or proven not to be (deadline).
    pub(crate) fn commit(&self, _event: Event) -> (Mark, Result<Receipt, NotDurable>) { unimplemented!() }
    /// Waits until everything recorded so far is durable (deadline).
    pub(crate) fn flush(&self) -> Result<(), NotDurable> { unimplemented!() }
    /// Admits a shard: gives its allocation a number, unless a live shard has the same id.
    pub(crate) fn admit(&self, _shard: &ShardId, _device: &Arc<str>, _bytes: u64) -> Option<Subject> { unimplemented!() }
    /// The shard's memory is gone.
    pub(crate) fn retire(&self, _subject: &Subject) { unimplemented!() }
    /// Calls `tick` about twice a second from the writer's thread for as long as it lives.
    pub(crate) fn watch(&self, _watched: Weak<dyn Watched>) { unimplemented!() }
}
