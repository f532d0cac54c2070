//! Anchors: checkpoints kept where the worker cannot rewrite them.
//!
//! A trail shows by itself that nothing inside it was changed. That nothing was cut off its end, or
//! that the whole directory is no older copy, only somebody else can show, who knows how far the
//! trail had come. An [`Anchor`] is the way to such a place. It is given checkpoints, never records:
//! an origin, a number, a root and a signature.
//!
//! ```text
//! writer (after the sync) -> slot, newest wins -> the anchor's thread -> keep(checkpoint)
//! ```
//!
//! Each anchor has a thread of its own, so one that is slow, dead or hostile delays nobody; that it
//! fails goes on record. When a trail is opened, what its anchors remember is compared with what is
//! there. An anchor cannot vouch for anything by itself: only what the trail's key has signed counts.
//! This module does not know when records are written, nor what they say.
//!
//! Shipped are [`SocketAnchor`], [`SameHostCopy`], and the log (`tracing`, target
//! `vram_residency::checkpoint`), which every trail has and which remembers nothing that we could ask
//! for: it gets the checkpoints of critical records and of closing.

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

/// After how many records a checkpoint is anchored, unless configured.
pub const DEFAULT_ANCHOR_EVERY_RECORDS: u64 = 10_000;

/// After which time new records are anchored, unless configured.
pub const DEFAULT_ANCHOR_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// The most anchors that a trail can have.
pub(super) const MAX_ANCHORS: usize = 16;

/// The most bytes in an anchor's name.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// A place that keeps checkpoints.
///
/// It is called from a thread of its own, never from two at once, and may take as long as it needs:
/// what takes longer than the critical deadline is recorded as `AnchorFailed`. Newer checkpoints
/// cover older ones, so it is given the newest only. A good anchor is append-only: it keeps every
/// checkpoint that it acknowledged, for ever, where the worker has no rights. It takes only what the
/// verifier keys that it was given have signed ([`Checkpoint::is_signed_by`]), nothing smaller than it
/// has of the origin, and no second root for a size.
///
/// [`checkpoints`](Self::checkpoints) and [`origins`](Self::origins) have bodies for anchors that were
/// written before these questions existed. A trail that has such an anchor says so on record
/// (`AnchorPartlyCompared`): an anchor that tells its newest checkpoint alone cannot contradict
/// somebody with the trail's key who rewrote the trail and made it longer.
///
/// If a call panics, that goes on record, and the anchor is not called again until the trail is
/// opened again.
///
/// A trail that is dropped without [`close`](super::Trail::close) stays open for as long as its anchors own
/// a manager, shard or lease of it.
pub trait Anchor: Send + 'static {
    /// What the trail's records call it: 1 to 256 printable characters, without secrets, always the
    /// same, and another for each anchor of a trail. It is asked once, when the anchor is given to the
    /// trail.
    fn name(&self) -> &str;

    /// Keeps `checkpoint`. Returns when it is as safe there as it will ever be.
    ///
    /// # Errors
    ///
    /// It is not kept, or nobody knows. The newest checkpoint is given again after a while.
    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError>;

    /// The newest checkpoint that it keeps of the trail `origin`; nothing if it keeps none. It need
    /// not check the signature.
    ///
    /// # Errors
    ///
    /// It does not know. Nothing is given to it until it has answered.
    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError>;

    /// A page of the checkpoints that it keeps of the trail `origin`: those of at least `from`
    /// records, each size once, in ascending order, as many as it likes to return at once. Empty only
    /// if there are none. The next page begins behind the last size of this one.
    ///
    /// # Errors
    ///
    /// It does not know. It is asked again.
    fn checkpoints(
        &mut self,
        _origin: &str,
        _from: u64,
    ) -> Result<Listing<Checkpoint>, AnchorError> {
        Ok(Listing::NotSupported)
    }

    /// All origins of the worker `worker` of which it keeps a checkpoint: those that begin with
    /// `vram-residency/<worker>/`.
    ///
    /// # Errors
    ///
    /// It does not know. Nothing is given to it until it has answered.
    fn origins(&mut self, _worker: &str) -> Result<Listing<String>, AnchorError> {
        Ok(Listing::NotSupported)
    }
}

/// An anchor's answer to a question for a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing<T> {
    /// These.
    Known(Vec<T>),
    /// It does not know this question. The trail that asked says so on record.
    NotSupported,
}

/// Why an anchor did not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnchorError {
    /// It answers something else than its protocol says.
    Answer {
        /// Its words, or their beginning.
        answer: String,
    },
    /// A system call failed.
    Io {
        /// What was tried.
        operation: &'static str,
        /// The system's answer. It is part of what this error prints, and no cause besides.
        source: io::Error,
    },
    /// Whatever else an anchor from outside this crate may say.
    Other(Box<dyn Error + Send + Sync>),
    /// It does not take this checkpoint.
    Refused {
        /// Its words, or their beginning.
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

/// What an anchor keeps of a trail: everything up to here is vouched for.
#[derive(Clone, Debug)]
pub struct Anchored {
    pub(super) anchor: Arc<str>,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) at: SystemTime,
}

impl Anchored {
    /// The name of the anchor.
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The checkpoint that it keeps.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// When it said so, by this machine's clock.
    pub fn at(&self) -> SystemTime {
        self.at
    }
}

/// An anchor, and what it is called: its name is asked for once, since it may change.
pub(super) struct Named {
    name: Arc<str>,
    anchor: Held<Box<dyn Anchor>>,
}

impl Named {
    pub(super) fn new(anchor: impl Anchor) -> Self {
        // Without a name, as after a panic, it is refused.
        let name = foreign::call(|| anchor.name().into());
        Self {
            name: name.unwrap_or_else(|_panic| "".into()),
            anchor: Held::new(Box::new(anchor)),
        }
    }

    /// Whether all can be told apart in the trail's records.
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

/// Gives checkpoints to whoever collects logs: an anchor for nothing.
pub(super) struct LogCollector;

impl LogCollector {
    const FILTERED: &str = "the log's filter leaves checkpoints out: let INFO of the target vram_residency::checkpoint through";

    /// Whether there is a log at all: without one, nobody expects checkpoints there.
    fn is_there() -> bool {
        tracing::dispatcher::get_default(|log| !log.is::<NoSubscriber>())
    }

    /// Whether checkpoints get through.
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

/// Logs what goes on record, and waits for nobody.
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
