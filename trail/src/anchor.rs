//! Anchors: checkpoints kept where the process cannot rewrite them.
//!
//! A trail by itself shows that nothing inside it was changed. It cannot show that its end was not
//! cut off, or that the directory is not an older copy. Only a place outside that knows how far the
//! trail had come can show that. An [`Anchor`] is the connection to such a place. It gets
//! checkpoints, never records: an origin, a number, a root and a signature.
//!
//! ```text
//! writer (after the sync) -> slot, newest wins -> the anchor's thread -> keep(checkpoint)
//! ```
//!
//! Each anchor has a thread of its own, so a slow, dead or hostile one delays no other part. Its
//! failures are recorded. When a trail is opened, what its anchors remember is compared with the
//! trail on disk. An anchor cannot vouch for anything by itself: only what the trail's key has
//! signed counts. This module does not know when records are written, nor what they mean.
//!
//! This crate has [`SocketAnchor`], [`SameHostCopy`], and the log (`tracing`, target
//! `vram_residency::checkpoint`). Every trail has the log. It gets the checkpoints of critical
//! records and of closing, and cannot be asked what it remembers.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::subscriber::NoSubscriber;

use super::checkpoint::Checkpoint;
use super::event::Anchoring;
use crate::foreign::{self, Held};

pub use compare::Contradiction;
pub use file::SameHostCopy;
pub use socket::SocketAnchor;

pub(super) use book::Schedule;
pub(super) use compare::Earlier;
pub(super) use keeper::Known;
pub(super) use post::{Anchors, Refuted};

mod book;
mod compare;
mod file;
mod keeper;
mod post;
mod socket;

/// The default number of records after which a checkpoint is anchored.
pub const DEFAULT_ANCHOR_EVERY_RECORDS: u64 = 10_000;

/// The default time after which new records are anchored.
pub const DEFAULT_ANCHOR_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// The most anchors that a trail can have.
pub(super) const MAX_ANCHORS: usize = 16;

/// The most bytes in an anchor's name.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// A place that keeps checkpoints.
///
/// The trail calls it on a thread of its own, never two calls at once. A call may take as long as
/// it needs; one that takes longer than the critical deadline is recorded as `AnchorFailed`. Newer
/// checkpoints cover older ones, so an anchor gets only the newest.
///
/// A good anchor is append-only. It keeps every checkpoint that it acknowledged, for ever, where
/// the process has no rights. It refuses:
///
/// * what its given verifier keys have not signed ([`Checkpoint::is_signed_by`]),
/// * a checkpoint smaller than the largest one that it has of the origin,
/// * a second root for a size.
///
/// [`checkpoints`](Self::checkpoints) and [`origins`](Self::origins) have default bodies for
/// anchors that were written before these methods existed. A trail that has such an anchor records
/// it (`AnchorPartlyCompared`). An anchor that returns only its newest checkpoint has a weakness:
/// it cannot contradict a holder of the trail's key who rewrote the trail and made it longer.
///
/// If a call panics, the trail records it, and does not call the anchor again until the trail is
/// opened again.
///
/// A trail that is dropped without [`close`](super::Trail::close) stays open for as long as its
/// anchors own a recorder, or anything that holds one.
pub trait Anchor: Send + 'static {
    /// Returns the name in the trail's records: 1 to 256 printable characters, without secrets. It
    /// must always be the same, and differ between the anchors of a trail. The trail asks once,
    /// when it gets the anchor.
    fn name(&self) -> &str;

    /// Keeps `checkpoint`. Returns when it is as durable there as it will ever be.
    ///
    /// # Errors
    ///
    /// The checkpoint is not kept, or that is unknown. The trail offers the newest checkpoint again
    /// after a while.
    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError>;

    /// Returns the newest checkpoint that the anchor keeps of the trail `origin`, or `None` if it
    /// keeps none. It need not check the signature.
    ///
    /// # Errors
    ///
    /// The anchor does not know. It gets no checkpoint until it has answered.
    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError>;

    /// Returns a page of the checkpoints that the anchor keeps of the trail `origin`: those of at
    /// least `from` records, each size once, in ascending order. The anchor chooses the page's
    /// length. A page is empty only if there are no more checkpoints. The next page begins behind
    /// the last size of this one.
    ///
    /// # Errors
    ///
    /// The anchor does not know. The trail asks again.
    fn checkpoints(
        &mut self,
        _origin: &str,
        _from: u64,
    ) -> Result<Listing<Checkpoint>, AnchorError> {
        Ok(Listing::NotSupported)
    }

    /// Returns all origins of the worker `worker` of which the anchor keeps a checkpoint: those
    /// that begin with `vram-residency/<worker>/`.
    ///
    /// # Errors
    ///
    /// The anchor does not know. It gets no checkpoint until it has answered.
    fn origins(&mut self, _worker: &str) -> Result<Listing<String>, AnchorError> {
        Ok(Listing::NotSupported)
    }
}

/// An anchor's answer to a request for a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing<T> {
    /// The list.
    Known(Vec<T>),
    /// The anchor does not support this request. The trail records that.
    NotSupported,
}

/// The reason why an anchor did not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnchorError {
    /// The answer does not follow the protocol.
    Answer {
        /// The answer, or its beginning.
        answer: String,
    },
    /// A system call failed.
    Io {
        /// The attempted operation.
        operation: &'static str,
        /// The system's error. Its text is part of this error's text, so it is not a `source`.
        source: io::Error,
    },
    /// Any other error of an anchor from outside this crate.
    Other(Box<dyn Error + Send + Sync>),
    /// The anchor refuses this checkpoint.
    Refused {
        /// The refusal's text, or its beginning.
        words: String,
    },
}

impl fmt::Display for AnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { answer } => {
                write!(
                    f,
                    "{answer:?} is no answer to this question: see what answers there"
                )
            }
            Self::Io { operation, source } => write!(f, "{operation}: {source}"),
            Self::Other(error) => error.fmt(f),
            Self::Refused { words } => write!(f, "it refuses: {words}"),
        }
    }
}

impl Error for AnchorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Other(error) => error.source(),
            Self::Answer { .. } | Self::Io { .. } | Self::Refused { .. } => None,
        }
    }
}

/// The newest checkpoint that an anchor keeps of a trail. The anchor vouches for all records up to
/// it.
#[derive(Clone, Debug)]
pub struct Anchored {
    pub(super) anchor: Arc<str>,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) at: SystemTime,
}

impl Anchored {
    /// Returns the name of the anchor.
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// Returns the checkpoint that the anchor keeps.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns when the anchor acknowledged it, by this machine's clock.
    pub fn at(&self) -> SystemTime {
        self.at
    }
}

/// An anchor with its name. The name is asked for once, since it may change.
pub(super) struct Named {
    name: Arc<str>,
    anchor: Held<Box<dyn Anchor>>,
}

impl Named {
    pub(super) fn new(anchor: impl Anchor) -> Self {
        // An empty name, as after a panic, is refused.
        let name = foreign::call(|| anchor.name().into());
        Self {
            name: name.unwrap_or_else(|_panic| "".into()),
            anchor: Held::new(Box::new(anchor)),
        }
    }

    /// Returns whether all names are valid and differ, so that the trail's records can tell the
    /// anchors apart.
    pub(super) fn are_good(anchors: &[Self]) -> bool {
        let is_good = |name: &str| {
            (1..=MAX_NAME_BYTES).contains(&name.len())
                && name != LogCollector.name()
                && !name.chars().any(char::is_control)
        };
        anchors.iter().enumerate().all(|(place, anchor)| {
            let mut earlier = anchors.iter().take(place);
            is_good(&anchor.name) && earlier.all(|other| other.name != anchor.name)
        })
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Anchor").field(&self.name).finish()
    }
}

/// Writes checkpoints to the log, so that a log collector serves as an anchor without further
/// setup.
pub(super) struct LogCollector;

impl LogCollector {
    const FILTERED: &str = "the log's filter leaves checkpoints out: let INFO of the target vram_residency::checkpoint through";

    /// Returns whether a log subscriber is installed. Without one, no checkpoints are expected in
    /// the log.
    fn is_there() -> bool {
        tracing::dispatcher::get_default(|log| !log.is::<NoSubscriber>())
    }

    /// Returns whether the subscriber takes checkpoints.
    fn is_heard() -> bool {
        tracing::enabled!(target: crate::LOG_OF_CHECKPOINTS, tracing::Level::INFO)
    }
}

impl Anchor for LogCollector {
    fn name(&self) -> &str {
        "tracing"
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        if Self::is_there() && !Self::is_heard() {
            return Err(AnchorError::Other(Self::FILTERED.into()));
        }
        tracing::info!(
            target: crate::LOG_OF_CHECKPOINTS,
            size = checkpoint.size(),
            checkpoint = %checkpoint,
            "checkpoint"
        );
        Ok(())
    }

    fn newest(&mut self, _origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

/// Logs an anchoring event that is being recorded. Does not wait.
fn tell(event: Option<Anchoring>) {
    if event.is_some() {
        foreign::log(move || log(event));
    }
}

fn log(event: Option<Anchoring>) {
    match event {
        Some(Anchoring::Contradicted {
            anchor,
            contradiction,
            size,
            ..
        }) => {
            tracing::error!(target: crate::LOG, %anchor, size, contradiction, "the trail is not the one that an anchor knows; the anchor gets nothing more");
        }
        Some(Anchoring::Failed {
            anchor,
            cause,
            size,
        }) => {
            tracing::error!(target: crate::LOG, %anchor, %cause, size, "an anchor fails; the newest checkpoint is tried again");
        }
        Some(Anchoring::PartlyCompared { anchor, comparison }) => {
            tracing::warn!(target: crate::LOG, %anchor, comparison, "the trail could be compared with a part of what an anchor keeps");
        }
        Some(Anchoring::Recovered { anchor, size }) => {
            tracing::info!(target: crate::LOG, %anchor, size, "an anchor works again");
        }
        _ => {}
    }
}
