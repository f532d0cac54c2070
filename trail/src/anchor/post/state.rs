//! The state of an anchor, and the events that wait for the writer. This module knows no threads.

use super::super::super::event::Anchoring;
use super::super::super::threads::Instant;
use super::super::book::Offer;
use super::Refuted;

/// The most events that wait for the writer. Outages beyond that are recorded as one.
const MAX_REPORTS: usize = 64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) slot: Option<Offer>,
    /// When the running call began.
    pub(super) asked: Option<Instant>,
    pub(super) failing: bool,
    /// It is recorded that the anchor holds a checkpoint that neither fits nor is signed.
    pub(super) doubted: bool,
    /// The result of the comparison with an earlier run's trail.
    pub(super) compared: Option<Result<(), Refuted>>,
    pub(super) reports: Vec<Anchoring>,
    /// The thread has ended.
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Opening waits for the comparison.
    Opening,
    Running,
    /// One more attempt for the checkpoint in the slot.
    Closing,
    /// The trail is gone.
    Stopped,
}

impl State {
    /// Stores an event for the writer. When there are too many, the last two, an outage and its
    /// end, cancel each other out.
    pub(super) fn report(&mut self, event: Anchoring) -> Anchoring {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop();
        } else {
            self.reports.push(event.clone());
        }
        event
    }
}
