//! The writer's reaction to segments that were read again: it records damage, and begins a new
//! segment if the damaged one is open.

use super::Writer;
use crate::application::Application;
use crate::checkpoint::VerifierKey;
use crate::event::Event;
use crate::foreign;
use crate::position::Position;
use crate::recheck::{Recheck, Unsound};
use crate::storage::Storage;
use crate::threads::Instant;

impl<A: Application, S: Storage> Writer<A, S> {
    /// Starts the thread that reads finished segments again.
    pub(crate) fn recheck(&mut self) -> std::io::Result<()> {
        self.recheck = Some(Recheck::new(self.log.reader()?));
        Ok(())
    }

    /// Requests that the segment just finished be read again, unless it is recorded already that it
    /// was changed.
    pub(super) fn read_again(&mut self, finished: Option<Position>, key: VerifierKey) {
        let is_known = std::mem::take(&mut self.disturbed);
        if let (Some(recheck), Some(finished), false) = (&self.recheck, finished, is_known) {
            recheck.add(finished, key);
        }
    }

    /// Reads the open segment again before it becomes the trail's last one: the next opening would
    /// refuse a trail that ends in damage. Takes at most half of the time that is left, and then
    /// goes on without a result. If the segment is unsound, the trail must be closed in another
    /// one.
    pub(super) fn is_sound(&mut self, deadline: Instant) -> bool {
        self.inspect();
        if !self.log.is_open() {
            // The record about it comes first.
            return self.pending.is_empty();
        }
        let (Some(recheck), Some(position)) = (self.recheck.take(), &self.log.position) else {
            return true;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        recheck.add(position.clone(), self.log.verifier().clone());
        let limit = Instant::now()
            .checked_add(left.checked_div(2).unwrap_or(left))
            .unwrap_or(deadline);
        if !recheck.wait(limit) {
            foreign::log(|| {
                tracing::warn!(target: crate::LOG,
                    "the audit trail is closed before its last segments were read again"
                );
            });
        }
        self.recheck = Some(recheck);
        let is_sound = !self.look_at_finished();
        // Not again: only the end of the trail is written from here on.
        self.recheck = None;
        is_sound
    }

    /// Records which finished segments were found unsound. If one is the open segment, it is given
    /// up, and the call returns true.
    pub(super) fn look_at_finished(&mut self) -> bool {
        let found = self.recheck.as_ref().map(Recheck::take_found);
        let mut is_open_one = false;
        for Unsound { segment, words } in found.into_iter().flatten() {
            let cause = words.clone();
            foreign::log(move || {
                tracing::error!(target: crate::LOG, segment, %cause, "a segment of the audit trail does not hold what was acknowledged there: verify the trail, and check the machine's memory");
            });
            let open = self.log.position.as_ref().map(|position| position.segment);
            if open == Some(segment) {
                self.log.give_up();
                is_open_one = true;
            }
            self.own.push(Event::SegmentPoisoned {
                segment,
                operation: "read again",
                cause: words,
            });
        }
        is_open_one
    }
}
