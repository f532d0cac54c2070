//! An anchor's thread: compares what the anchor remembers, then gives it the checkpoint in its
//! slot.
//!
//! The newest checkpoint that the anchor keeps is compared first; before that, the anchor gets
//! nothing. All the others follow, one segment of the trail at a time, so that a long trail delays
//! no new checkpoint. A failing anchor is retried after a growing pause, with the checkpoint that
//! is newest then. An anchor that panics, or that knows another trail, gets nothing more. This
//! module calls the anchor. It does not know which threads wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::super::checkpoint::Checkpoint;
use super::super::event::Anchoring;
use super::super::event::Text;
use super::super::threads::Instant;
use super::book::Offer;
use super::compare::{Misfit, Stop, Walk};
use super::post::{Next, Post, Refuted};
use super::{Anchor, AnchorError, Contradiction, Earlier, Listing};
use crate::foreign::{Held, Panicked};

/// The pause after the first failure. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The reason why an unsigned checkpoint does not count.
const NOT_SIGNED: &str = "it answers with a checkpoint that no key of this trail has signed";

/// What is known of the trail that is opened, and which exceptions apply to its anchors.
pub(in super::super) struct Known {
    pub(in super::super) origin: String,
    pub(in super::super) worker: String,
    /// The trail as earlier runs have left it. `None` if it is new.
    pub(in super::super) earlier: Option<Arc<Earlier>>,
    /// Other origins of this worker whose existence does not prevent this trail from being created.
    pub(in super::super) beside: Vec<Arc<str>>,
    /// The anchors whose unverifiable checkpoints, signed by no given key, are ignored.
    pub(in super::super) unverifiable: Vec<Arc<str>>,
}

/// The state that the thread owns.
pub(super) struct Keeper {
    anchor: Held<Box<dyn Anchor>>,
    post: Arc<Post>,
    known: Option<Arc<Known>>,
    memory: Memory,
    /// A comparison was broken off. The anchor gets nothing before a later one has been completed.
    is_broken_off: bool,
}

/// How far the anchor's memory was compared with the trail on disk.
enum Memory {
    /// Not at all. The anchor gets nothing.
    Unasked,
    /// The newest checkpoint fits, or there is none. The others are being compared.
    Older(Box<Walk>),
    /// The anchor holds a checkpoint that neither fits nor is signed. It gets nothing.
    Doubtful,
    Compared,
}

/// The reason why a call failed.
enum Trouble {
    /// The anchor holds a checkpoint that neither fits nor is signed.
    Doubtful,
    /// A retry may succeed.
    Failed(Text),
    /// The anchor panicked and must not be called again.
    Panicked,
    /// The anchor knows another trail.
    Refuted(Refuted),
}

impl Keeper {
    /// Creates the thread's state. For an anchor that remembers nothing, `known` is `None`.
    pub(super) fn new(
        anchor: Held<Box<dyn Anchor>>,
        post: Arc<Post>,
        known: Option<Arc<Known>>,
    ) -> Self {
        let memory = match known {
            Some(_) => Memory::Unasked,
            None => Memory::Compared,
        };
        Self {
            anchor,
            post,
            known,
            memory,
            is_broken_off: false,
        }
    }

    /// Runs until the trail is closed or the anchor must not be called again.
    pub(super) fn run(mut self) {
        let post = Arc::clone(&self.post);
        // If this code panics, a caller that closes the trail must still get an answer.
        let _ours = catch_unwind(AssertUnwindSafe(move || self.serve()));
        post.end();
    }

    fn serve(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut not_before = None;
        loop {
            let (done, is_last) = match self.post.next(not_before, self.has_to_compare()) {
                Next::Over => return,
                Next::Free => (self.compare(), false),
                Next::Offer(offer, is_last) => (self.hand_over(&offer), is_last),
            };
            let is_good = done.is_ok();
            match done {
                Ok(()) => {}
                Err(Trouble::Failed(cause)) => self.post.failed(cause, is_last),
                Err(Trouble::Doubtful) => self.post.doubted(NOT_SIGNED.into(), is_last),
                Err(Trouble::Panicked) => {
                    let cause = "it panicked and is given up";
                    return self.post.failed_for_good(cause.into());
                }
                Err(Trouble::Refuted(refuted)) => return self.post.refuted(refuted),
            }
            if is_last {
                return;
            }
            if is_good {
                pause = FIRST_PAUSE;
                not_before = None;
            } else {
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                not_before = Instant::now().checked_add(pause);
            }
        }
    }

    fn has_to_compare(&self) -> bool {
        matches!(self.memory, Memory::Unasked | Memory::Older(_))
    }

    fn hand_over(&mut self, offer: &Offer) -> Result<(), Trouble> {
        match &self.memory {
            Memory::Unasked => self.compare()?,
            Memory::Doubtful => return Err(Trouble::Doubtful),
            Memory::Older(_) | Memory::Compared => {}
        }
        while self.is_broken_off && self.has_to_compare() {
            self.compare()?;
        }
        self.call(|anchor| anchor.keep(&offer.checkpoint))?;
        self.post.kept(offer);
        // New checkpoints never stop the comparison, however fast they come.
        match self.memory {
            Memory::Older(_) => self.compare(),
            _ => Ok(()),
        }
    }

    /// Advances the comparison by one step.
    fn compare(&mut self) -> Result<(), Trouble> {
        let Some(known) = self.known.clone() else {
            return Ok(());
        };
        match std::mem::replace(&mut self.memory, Memory::Unasked) {
            Memory::Unasked => self.memory = self.ask_newest(&known)?,
            Memory::Older(walk) => {
                self.is_broken_off = true;
                // If the comparison breaks off, it starts again with all checkpoints and does not
                // ask for the newest one. By then the newest may be this run's own, which is larger
                // than the trail as it was found.
                let earlier = known.earlier.clone();
                self.memory = earlier.map_or(Memory::Compared, |earlier| {
                    Memory::Older(Box::new(Walk::new(earlier)))
                });
                self.memory = self.walk_on(&known, walk)?;
                self.is_broken_off = false;
            }
            other => self.memory = other,
        }
        match &self.memory {
            Memory::Compared => self.post.compared(),
            Memory::Doubtful => return Err(Trouble::Doubtful),
            Memory::Unasked | Memory::Older(_) => {}
        }
        Ok(())
    }

    /// Compares the newest checkpoint that the anchor keeps. If there is none, compares the
    /// origins.
    fn ask_newest(&mut self, known: &Known) -> Result<Memory, Trouble> {
        let newest = match &known.earlier {
            None => None,
            Some(earlier) => self
                .call(|anchor| anchor.newest(&known.origin))?
                .map(|newest| (earlier, newest)),
        };
        let Some((earlier, newest)) = newest else {
            self.ask_origins(known)?;
            return Ok(Memory::Compared);
        };
        if newest.origin() != known.origin {
            return Err(Trouble::Failed(NOT_SIGNED.into()));
        }
        if newest.size() > earlier.leaves() {
            self.is_larger(known, earlier, newest)?;
        } else {
            self.fits(known, earlier, newest)?;
        }
        Ok(Memory::Older(Box::new(Walk::new(Arc::clone(earlier)))))
    }

    /// Handles an anchor that knows more records than the trail has. If no given key has signed its
    /// checkpoint, there are two explanations. The answering server may have made it up, or the
    /// trail was cut back to a time before its key was changed.
    fn is_larger(
        &self,
        known: &Known,
        earlier: &Earlier,
        newest: Checkpoint,
    ) -> Result<(), Trouble> {
        if earlier.has_signed(&newest) {
            return Err(Trouble::Refuted(Refuted::Contradicts {
                checkpoint: newest,
                contradiction: Contradiction::Shorter {
                    leaves: earlier.leaves(),
                },
            }));
        }
        if !self.overlooks_unverifiable(known) {
            return Err(Trouble::Refuted(Refuted::Unverifiable(newest)));
        }
        self.post.report(self.partly("unverifiable_ignored"));
        Ok(())
    }

    fn fits(
        &self,
        known: &Known,
        earlier: &Arc<Earlier>,
        newest: Checkpoint,
    ) -> Result<(), Trouble> {
        let is_signed = earlier.has_signed(&newest);
        let mut walk = Walk::to(Arc::clone(earlier), newest.clone());
        let mut none = |_| Ok::<_, Trouble>(Vec::new());
        let outcome = loop {
            if let Some(outcome) = walk.step(&mut none)? {
                break outcome;
            }
        };
        match outcome {
            Err(misfit) => self.misfit(known, misfit),
            // A checkpoint that can be neither compared nor verified may be anything.
            Ok(false) if !is_signed && !self.overlooks_unverifiable(known) => {
                Err(Trouble::Doubtful)
            }
            Ok(_) => {
                if is_signed {
                    self.post.kept_before(newest);
                }
                Ok(())
            }
        }
    }

    fn misfit(&self, known: &Known, misfit: Misfit) -> Result<(), Trouble> {
        match misfit {
            Misfit::Contradicts(checkpoint) => Err(Trouble::Refuted(Refuted::Contradicts {
                checkpoint,
                contradiction: Contradiction::Different,
            })),
            Misfit::Unverifiable(_) if self.overlooks_unverifiable(known) => {
                self.post.report(self.partly("unverifiable_ignored"));
                Ok(())
            }
            Misfit::Unverifiable(_) => Err(Trouble::Doubtful),
        }
    }

    /// Compares the checkpoints up to the end of the next segment of the trail.
    fn walk_on(&mut self, known: &Known, mut walk: Box<Walk>) -> Result<Memory, Trouble> {
        let mut cannot_list = false;
        let mut pages = |from| match self.call(|anchor| anchor.checkpoints(&known.origin, from))? {
            Listing::Known(page) if is_in_order(&page, &known.origin, from) => Ok(page),
            Listing::Known(_) => Err(Trouble::Failed(
                "its list of checkpoints is not in ascending order of this trail's sizes".into(),
            )),
            Listing::NotSupported if from == 0 => {
                cannot_list = true;
                Ok(Vec::new())
            }
            Listing::NotSupported => Err(Trouble::Failed(
                "it lists some of its checkpoints and then no more".into(),
            )),
        };
        let outcome = walk.step(&mut pages)?;
        if cannot_list {
            self.post.report(self.partly("newest_only"));
        }
        match outcome {
            None => Ok(Memory::Older(walk)),
            Some(Ok(_)) => Ok(Memory::Compared),
            Some(Err(misfit)) => match self.misfit(known, misfit) {
                Ok(()) => Ok(Memory::Compared),
                Err(Trouble::Doubtful) => Ok(Memory::Doubtful),
                Err(trouble) => Err(trouble),
            },
        }
    }

    /// Handles an anchor that knows another trail of the worker but not this one: the directory may
    /// have been lost or exchanged.
    fn ask_origins(&mut self, known: &Known) -> Result<(), Trouble> {
        let origins = match self.call(|anchor| anchor.origins(&known.worker))? {
            Listing::Known(origins) => origins,
            Listing::NotSupported => {
                self.post.report(self.partly("origins_unknown"));
                return Ok(());
            }
        };
        let prefix = format!("vram-residency/{}/", known.worker);
        let is_other = |origin: &String| {
            origin.starts_with(&prefix)
                && *origin != known.origin
                && known.beside.iter().all(|other| **other != **origin)
        };
        match origins.into_iter().find(is_other) {
            Some(origin) => Err(Trouble::Refuted(Refuted::OtherOrigin(origin))),
            None => Ok(()),
        }
    }

    fn overlooks_unverifiable(&self, known: &Known) -> bool {
        known.unverifiable.contains(&self.post.name)
    }

    fn partly(&self, comparison: &'static str) -> Anchoring {
        Anchoring::PartlyCompared {
            anchor: Arc::clone(&self.post.name),
            comparison,
        }
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut dyn Anchor) -> Result<T, AnchorError>,
    ) -> Result<T, Trouble> {
        self.post.asks();
        // The error may come from foreign code, too.
        let answer = self
            .anchor
            .call(|anchor| call(anchor.as_mut()).map_err(|error| Text::from(error.to_string())));
        self.post.answered();
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(words)) => Err(Trouble::Failed(words)),
            Err(Panicked) => Err(Trouble::Panicked),
        }
    }
}

impl From<Stop<Self>> for Trouble {
    fn from(stop: Stop<Self>) -> Self {
        match stop {
            Stop::Pages(trouble) => trouble,
            Stop::Read(error) => {
                let cause = format!("the trail cannot be read to compare it: {error}");
                Self::Failed(cause.into())
            }
        }
    }
}

fn is_in_order(page: &[Checkpoint], origin: &str, from: u64) -> bool {
    let mut least = Some(from);
    page.iter().all(|checkpoint| {
        let fits = least.is_some_and(|least| checkpoint.size() >= least);
        least = checkpoint.size().checked_add(1);
        fits && checkpoint.origin() == origin
    })
}
