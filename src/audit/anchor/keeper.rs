//! An anchor's thread: compares what the anchor remembers, then gives it what is in its slot.
//!
//! An anchor that fails is tried again after a pause that grows, with whatever is the newest
//! checkpoint then. One that panics, or that knows another trail than ours, gets nothing more. This
//! module calls the anchor; it does not know who waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::super::log::shorten;
use super::super::sync::Instant;
use super::book::Offer;
use super::post::{Post, Refuted};
use super::{Anchor, AnchorError, Earlier};

/// The pause after a first failure. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the thread owns.
pub(super) struct Keeper {
    anchor: Box<dyn Anchor>,
    post: Arc<Post>,
    /// The trail that the anchor's memory is still to be compared with.
    earlier: Option<Arc<Earlier>>,
}

/// Why a call came to nothing.
enum Trouble {
    /// It is worth another attempt.
    Failed(Arc<str>),
    /// The anchor is in no state to be called again.
    Panicked,
    /// It knows another trail.
    Refuted(Refuted),
}

impl Keeper {
    pub(super) fn new(
        anchor: Box<dyn Anchor>,
        post: Arc<Post>,
        earlier: Option<Arc<Earlier>>,
    ) -> Self {
        Self {
            anchor,
            post,
            earlier,
        }
    }

    /// Runs until the trail is closed, or the anchor must not be called any more.
    pub(super) fn run(mut self) {
        let post = Arc::clone(&self.post);
        // The destructor is the caller's, too.
        let _panicked = catch_unwind(AssertUnwindSafe(move || {
            self.serve();
            drop(self);
        }));
        post.end();
    }

    fn serve(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut not_before = None;
        if self.earlier.is_some() {
            match self.compare() {
                Ok(()) => {}
                Err(Trouble::Failed(cause)) => {
                    self.post.not_compared(cause);
                    not_before = Instant::now().checked_add(pause);
                }
                Err(trouble) => return self.give_up(trouble),
            }
        }
        while let Some((offer, is_last)) = self.post.next(not_before) {
            match self.attempt(&offer) {
                Ok(()) => {
                    self.post.kept(&offer);
                    pause = FIRST_PAUSE;
                    not_before = None;
                }
                Err(Trouble::Failed(cause)) => {
                    self.post.failed(cause, is_last);
                    if is_last {
                        return;
                    }
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                    not_before = Instant::now().checked_add(pause);
                }
                Err(trouble) => return self.give_up(trouble),
            }
        }
    }

    fn give_up(&self, trouble: Trouble) {
        match trouble {
            Trouble::Failed(cause) => self.post.failed(cause, false),
            Trouble::Panicked => self
                .post
                .failed("it panicked and is given up".into(), false),
            Trouble::Refuted(refuted) => self.post.compared(Err(refuted)),
        }
    }

    fn attempt(&mut self, offer: &Offer) -> Result<(), Trouble> {
        self.compare()?;
        let anchor = &mut self.anchor;
        guarded(|| anchor.keep(&offer.checkpoint))
    }

    /// Compares what the anchor remembers with the trail that was found, until that has been done.
    ///
    /// A memory that our key has not signed is no memory: whoever answers there could otherwise keep
    /// a worker from starting, or vouch for a trail.
    fn compare(&mut self) -> Result<(), Trouble> {
        let Some(earlier) = &self.earlier else {
            return Ok(());
        };
        let anchor = &mut self.anchor;
        let kept = guarded(|| anchor.newest(earlier.origin()))?;
        if let Some(checkpoint) = &kept {
            if !earlier.has_signed(checkpoint) {
                let cause = "it answers with a checkpoint that no key of this trail has signed";
                return Err(Trouble::Failed(cause.into()));
            }
            match earlier.contradiction(checkpoint) {
                Ok(None) => {}
                Ok(Some(contradiction)) => {
                    return Err(Trouble::Refuted(Refuted {
                        checkpoint: checkpoint.clone(),
                        contradiction,
                    }));
                }
                Err(error) => {
                    let cause = format!("the trail cannot be read to compare it: {error}");
                    return Err(Trouble::Failed(shorten(&cause)));
                }
            }
        }
        self.post.compared(Ok(kept));
        self.earlier = None;
        Ok(())
    }
}

fn guarded<T>(call: impl FnOnce() -> Result<T, AnchorError>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Trouble::Failed(shorten(&error.to_string()))),
        Err(_) => Err(Trouble::Panicked),
    }
}
