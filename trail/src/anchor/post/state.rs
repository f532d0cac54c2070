//! What is known of an anchor, and what it has left for the writer. This module knows no threads.

use super::super::super::event::Anchoring;
use super::super::super::threads::Instant;
use super::super::book::Offer;
use super::Refuted;

/// The most events that wait for the writer; outages beyond that go on record as one.
const MAX_REPORTS: usize = 64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) slot: Option<Offer>,
    /// When the call that is not back yet was made.
    pub(super) asked: Option<Instant>,
    pub(super) failing: bool,
    /// That it holds what neither fits nor is signed has been told.
    pub(super) doubted: bool,
    /// What came of the comparison with an earlier run's trail.
    pub(super) compared: Option<Result<(), Refuted>>,
    pub(super) reports: Vec<Anchoring>,
    /// The thread has ended.
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The opening waits for the comparison.
    Opening,
    Running,
    /// One more attempt for what is in the slot.
    Closing,
    /// The trail is gone.
    Stopped,
}

impl State {
    /// Leaves an event for the writer. An anchor comes and goes, so the last two cancel each other
    /// out where there are too many.
    pub(super) fn report(&mut self, event: Anchoring) -> Anchoring {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop();
        } else {
            self.reports.push(event.clone());
        }
        event
    }
}
