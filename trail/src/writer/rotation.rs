//! Begins segments: the next one when this one is large or old enough, or a replacement for one
//! that was given up.

use super::Writer;
use crate::application::Application;
use crate::event::Event;
use crate::foreign;
use crate::log::LogError;
use crate::record::Record;
use crate::storage::Storage;

impl<A: Application, S: Storage> Writer<A, S> {
    pub(super) fn begin_segment(&mut self, count: usize) -> Result<(), LogError> {
        // Stated anew at each attempt: more bytes may stand behind the end by now, and the
        // checkpoint of the previous attempt is void.
        let numbers_below = self.shared.queue.bound_numbers();
        let event = Event::SegmentOpened {
            header: Box::new(self.log.next_header(numbers_below)),
        };
        let header = match self.header.take() {
            Some(header) => Record { event, ..header },
            None => self.shared.queue.number(event),
        };
        let finished = self.log.position.clone();
        let key = self.log.verifier().clone();
        let outcome = self
            .log
            .begin_segment(&header, self.pending.iter().take(count));
        match &outcome {
            Ok(()) => {
                self.shared.queue.settle_numbers(numbers_below);
                self.read_again(finished, key);
            }
            Err(error) => {
                self.header = Some(header);
                self.displaced |= error.is_displacement();
            }
        }
        outcome
    }

    /// Begins the next segment if this one is large or old enough. A waiting critical record goes
    /// first, until the segment has twice its size or age. One that comes during the rotation waits
    /// for the new segment, some two syncs more than its own.
    pub(super) fn rotate(&mut self) {
        let settings = &self.shared.settings;
        let patience = if self.shared.queue.is_urgent() { 2 } else { 1 };
        let (bytes, age) = self.log.extent();
        let is_due = bytes >= settings.segment_bytes.saturating_mul(patience.into())
            || age >= settings.segment_age.saturating_mul(patience);
        if !is_due || self.closed.is_some() {
            return;
        }
        if self.check_memory().is_err() {
            return;
        }
        // The next header states how this segment ended.
        self.inspect();
        if !self.log.is_open() {
            return;
        }
        // Without a file for the next segment nothing has happened yet, and this segment can go on.
        let outcome = match self.log.prepare_segment() {
            Ok(()) => self.begin_segment(0),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.cannot_rotate = false;
                self.settle(0);
            }
            Err(error) => {
                // If the open segment can go on, callers that wait for it are not delayed.
                if !self.log.is_open() {
                    self.failed(&error);
                }
                if !std::mem::replace(&mut self.cannot_rotate, true) {
                    foreign::log(move || {
                        tracing::error!(target: crate::LOG, %error, "the audit trail cannot begin its next segment, and tries again");
                    });
                }
            }
        }
    }
}
