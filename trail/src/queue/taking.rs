//! The writer's side of the queue: it waits for work, takes it, and reports the result. What is
//! written, and how, is not known here.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Queue, Refusal, State, Wake, WriteFailure, Writer};
use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::clock::{Time, Uptime};
use crate::event::{Event, Lost, Seq};
use crate::health::Backlog;
use crate::record::Record;
use crate::threads::Instant;

impl<A: Application> State<A> {
    fn hold(&mut self, pending: &VecDeque<Record<A>>) {
        self.in_flight = pending.len();
        self.in_flight_since = pending.front().map(|record| record.mono_us);
    }
}

impl<A: Application> Queue<A> {
    /// Waits for a critical record, enough ordinary ones, or closing, at most `limit`.
    pub(crate) fn wait_for_work(&self, limit: Duration) -> Wake {
        let deadline = Instant::now().checked_add(limit);
        let mut state = self.lock();
        loop {
            if let Some(until) = state.closing {
                return Wake::Close(until);
            }
            let enough = state.records.len() >= self.worth_writing() && state.failure.is_none();
            let left = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
            if state.urgent || enough || left.is_zero() {
                return Wake::Work;
            }
            state = self
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Moves the queued records behind `pending`, then numbers the trail's own events behind them,
    /// so that `pending` stays in the order of the numbers. Returns the new gaps, to be logged.
    ///
    /// While the disk fails, gaps stay where they are and grow: a record for each attempt would be
    /// noise, and need room.
    pub(crate) fn take(
        &self,
        pending: &mut VecDeque<Record<A>>,
        own: &mut Vec<Event<A>>,
    ) -> Vec<Lost> {
        let mut state = self.lock();
        state.urgent = false;
        pending.append(&mut state.records);
        let fresh = state.lost.iter_mut().filter(|gap| !gap.logged);
        let fresh = fresh
            .map(|gap| {
                gap.logged = true;
                gap.lost
            })
            .collect();
        if state.failure.is_none() {
            let explained = state.lost.drain(..);
            own.extend(explained.map(|gap| Event::RecordsLost { lost: gap.lost }));
        }
        // Raised before the bound is near: while the disk works, no record goes without a number.
        let ahead = own.len().saturating_add(self.room().saturating_mul(2));
        if state.numbers.has_fewer_than(ahead) {
            let numbers_below = state.numbers.state(ahead.saturating_add(self.room()));
            own.insert(0, Event::NumbersReserved { numbers_below });
        }
        for event in own.drain(..) {
            let seq = state.numbers.take();
            pending.push_back(Record {
                seq,
                time: Time::now(),
                mono_us: self.mono_us(),
                event,
            });
        }
        state.hold(pending);
        fresh
    }

    /// Numbers a record of the trail itself that does not go through the queue.
    pub(crate) fn number(&self, event: Event<A>) -> Record<A> {
        let mut state = self.lock();
        Record {
            seq: state.numbers.take(),
            time: Time::now(),
            mono_us: self.mono_us(),
            event,
        }
    }

    /// Returns the bound of numbers that the next header states.
    pub(crate) fn bound_numbers(&self) -> u64 {
        let ahead = self.room().saturating_mul(3);
        self.lock().numbers.state(ahead)
    }

    /// Notes that a record with this bound is durable: callers may get numbers below it.
    pub(crate) fn settle_numbers(&self, numbers_below: u64) {
        self.lock().numbers.settle(numbers_below);
    }

    /// Makes a record that takes the number of one that was never acknowledged.
    pub(crate) fn instead_of(&self, dropped: &Record<A>, event: Event<A>) -> Record<A> {
        Record {
            seq: dropped.seq,
            time: Time::now(),
            mono_us: self.mono_us(),
            event,
        }
    }

    /// Returns the first lost number that no record accounts for yet.
    pub(crate) fn first_gap(&self) -> Option<Seq> {
        self.lock().lost.front().map(|gap| gap.lost.first)
    }

    /// Notes that everything up to `last` is durable under `checkpoint`. The writer still holds
    /// `pending`.
    pub(crate) fn settle(
        &self,
        last: Option<Seq>,
        checkpoint: Arc<Checkpoint>,
        pending: &VecDeque<Record<A>>,
    ) {
        let mut state = self.lock();
        let mut below = last.map_or(0, |last| last.0.saturating_add(1));
        if pending.is_empty() {
            // The writer held no record with a header's number, which may be the highest.
            let gap = state.lost.front().map(|gap| gap.lost.first.0);
            below = state.first_queued().min(gap.unwrap_or(u64::MAX));
        }
        state.durable_below = state.durable_below.max(below);
        state.checkpoint = Some(checkpoint);
        state.hold(pending);
        state.failure = None;
        drop(state);
        self.settled.notify_all();
    }

    /// Notes that the attempt to write everything that was taken has failed. The records stay with
    /// the writer.
    pub(crate) fn report_failure(&self, failure: WriteFailure) {
        let mut state = self.lock();
        state.failed_below = state.first_queued();
        state.failure = Some(failure);
        drop(state);
        self.settled.notify_all();
    }

    /// Accepts nothing more, because another writer has the trail's place.
    pub(crate) fn displace(&self) {
        self.lock().refuses = Some(Refusal::Displaced);
    }

    /// Ends the writer, which leaves `abandoned` records from outside unwritten, besides those
    /// still queued. Returns how many are lost, or `None` if it had ended before.
    pub(crate) fn stop(&self, abandoned: u64) -> Option<u64> {
        let mut state = self.lock();
        if state.writer == Writer::Stopped {
            return None;
        }
        state.writer = Writer::Stopped;
        state.refuses.get_or_insert(Refusal::WriterStopped);
        let queued = u64::try_from(state.records.len()).unwrap_or(u64::MAX);
        let lost = abandoned.saturating_add(queued);
        self.counters.count_failures(lost);
        drop(state);
        self.settled.notify_all();
        Some(lost)
    }

    /// Returns how many records the writer holds that are not durable.
    pub(crate) fn in_flight(&self) -> u64 {
        u64::try_from(self.lock().in_flight).unwrap_or(u64::MAX)
    }

    /// Returns the records that are not durable. Zero once the writer has ended and counted them as
    /// lost.
    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.lock();
        if state.writer == Writer::Stopped {
            return Backlog::default();
        }
        let queued = || state.records.front().map(|record| record.mono_us);
        let oldest = state.in_flight_since.or_else(queued);
        let age = oldest.map_or(0, |made| self.mono_us().saturating_sub(made));
        let records = state.records.len().saturating_add(state.in_flight);
        Backlog {
            records: u64::try_from(records).unwrap_or(u64::MAX),
            oldest: Duration::from_micros(age),
        }
    }

    /// Returns when a record was made.
    pub(crate) fn made(&self, record: &Record<A>) -> Uptime {
        self.opened.after_microseconds(record.mono_us)
    }

    /// Returns whether a caller waits for a record that the writer has not taken.
    pub(crate) fn is_urgent(&self) -> bool {
        self.lock().urgent
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.lock().failure.is_some()
    }

    pub(crate) fn newest_checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.lock().checkpoint.clone()
    }
}
