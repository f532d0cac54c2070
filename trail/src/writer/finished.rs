//! What the writer makes of segments that were read again: a record of what does not hold, and a new
//! segment if it is the open one.

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
    /// Lets finished segments be read again, beside this thread.
    pub(crate) fn recheck(&mut self) -> std::io::Result<()> {
        self.recheck = Some(Recheck::new(self.log.reader()?));
        Ok(())
    }

    /// Lets the segment be read again that the writer has left, unless it is on record that somebody has
    /// changed it.
    pub(super) fn read_again(&mut self, finished: Option<Position>, key: VerifierKey) {
        let is_known = std::mem::take(&mut self.disturbed);
        if let (Some(recheck), Some(finished), false) = (&self.recheck, finished, is_known) {
            recheck.add(finished, key);
        }
    }

    /// Reads the open segment again before it is the trail's last one: the next opening would refuse a
    /// trail that ends in damage. Takes at most half of the time that is left, and goes on without. If
    /// the segment is unsound, the trail is to be closed in another one.
    pub(super) fn is_sound(&mut self, deadline: Instant) -> bool {
        self.inspect();
        if !self.log.is_open() {
            // What is to be said about that comes first.
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
        // Not again: what is written from here on is what closes the trail.
        self.recheck = None;
        is_sound
    }

    /// Puts on record which finished segments were found unsound. The open one is given up; says
    /// whether that was so.
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
