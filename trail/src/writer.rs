//! The writer: one thread that makes records durable, by group commit.
//!
//! It takes the queued records, writes the lines and a checkpoint with one write and one sync, and
//! only then answers the waiting callers. If a write or a sync fails, the file is given up. After a
//! failed sync it is unknown which bytes are on disk, and a second sync would claim that they are.
//! A new segment is opened behind the last checkpoint that *was* synced, and all records since then
//! are written again from memory.
//!
//! If that fails too, the records stay in memory and the callers get the error. The next attempt
//! comes with the next critical record or the next tick.
//!
//! The thread calls a supplied signer and the application: its `tick`, `settled` and `closing`, and the
//! serialization of its entries. Log messages and metrics are handed to [`foreign`](crate::foreign).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::clock::{ClockWatch, Time, Uptime};
use super::event::{Event, Lost};
use super::log::{Log, LogError};
use super::queue::{Wake, WriteFailure};
use super::recheck::Recheck;
use super::record::Record;
use super::storage::Storage;
use super::threads::{self, Instant};
use super::{CloseError, Receipt, Shared};
use crate::application::Application;
use crate::foreign;
use crate::health::hook::Bell;
use crate::health::{Backlog, Degradation, FailureRatio};

pub(super) use closing::StopOnDrop;

mod closing;
mod finished;
mod rotation;

/// The most records in one write. A critical record behind a queue that is full by default waits
/// for five such writes.
const MAX_BATCH: usize = 16_384;

/// The most records in the first write after a failure: with little room, some may still fit.
const CAUTIOUS_BATCH: usize = 64;

/// How long the writer sleeps at a time while it lets the disk rest. Closing may be noticed this
/// late.
const NAP: Duration = Duration::from_millis(10);

/// The longest time between two ticks. Whatever the durability interval, a heartbeat and an alarm
/// come within seconds.
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// The interval of log messages while the trail cannot be written.
const REMINDER: Duration = Duration::from_secs(60);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer<A: Application, S: Storage> {
    log: Log<S>,
    shared: Arc<Shared<A>>,
    /// The records taken from the queue and not durable yet, in the order of the numbers.
    pending: VecDeque<Record<A>>,
    /// The trail's own events that have no number yet.
    own: Vec<Event<A>>,
    /// The header of a segment that could not be begun yet. It keeps its number.
    header: Option<Record<A>>,
    /// When the log was last reminded that nothing can be written.
    reminded: Option<Instant>,
    /// It is logged that the next segment is due and cannot be begun.
    cannot_rotate: bool,
    clock: ClockWatch,
    ratio: FailureRatio,
    /// Delivers degradations to the user's hook.
    pub(super) bell: Option<Bell>,
    /// Reads finished segments again.
    recheck: Option<Recheck>,
    /// It is recorded that the segment before differs from what was written.
    disturbed: bool,
    /// The receipt of `TrailClosed`, if that is the last record.
    closed: Option<Receipt>,
    /// A file of another writer has the name of the next segment, so the writer must end.
    displaced: bool,
    /// When a failed disk is retried.
    backoff: Backoff,
    /// The number of segments that were given up.
    given_up: u64,
    /// The last failure.
    failure: Option<WriteFailure>,
}

impl<A: Application, S: Storage> Writer<A, S> {
    pub(crate) fn new(log: Log<S>, shared: Arc<Shared<A>>) -> Self {
        let settings = &shared.settings;
        let ratio = FailureRatio::new(
            Uptime::now(),
            settings.failure_window,
            settings.failure_threshold_per_mille,
        );
        Self {
            log,
            pending: VecDeque::with_capacity(shared.queue.room()),
            own: Vec::new(),
            header: None,
            reminded: None,
            cannot_rotate: false,
            clock: ClockWatch::new(),
            ratio,
            bell: None,
            recheck: None,
            disturbed: false,
            closed: None,
            displaced: false,
            backoff: Backoff::new(
                settings.critical_deadline,
                shared.verifier.name().as_bytes(),
            ),
            given_up: 0,
            failure: None,
            shared,
        }
    }

    /// Runs until the trail is closed. Returns the receipt of `TrailClosed`.
    pub(crate) fn run(mut self) -> Result<Receipt, CloseError> {
        let _stopped = StopOnDrop(Arc::clone(&self.shared));
        let interval = self.shared.settings.durable_within;
        let tick = interval.checked_div(2).unwrap_or(interval);
        let tick = tick.min(LONGEST_TICK);
        let mut next_tick = Instant::now();
        loop {
            let nap = self.backoff.take(NAP);
            if !nap.is_zero() {
                threads::sleep(nap);
            }
            let wake = self.shared.queue.wait_for_work(self.patience(next_tick));
            if matches!(wake, Wake::Close(_)) || Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now().checked_add(tick).unwrap_or(next_tick);
            }
            if let Wake::Close(deadline) = wake {
                return self.close(deadline);
            }
            if !self.backoff.is_resting() {
                self.drain(next_tick);
                self.shared.application.settled();
            }
            if self.displaced {
                return Err(self.abandon(self.backoff.total()));
            }
        }
    }

    /// Returns how long to wait for work. Zero if work was left at the last tick, or if the time
    /// passes with naps.
    fn patience(&self, next_tick: Instant) -> Duration {
        if self.backoff.is_resting() {
            Duration::ZERO
        } else if self.pending.is_empty() || self.shared.queue.is_failing() {
            next_tick.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        }
    }

    /// Does the periodic work, about twice in each durability interval, and every few seconds at
    /// least.
    pub(super) fn tick(&mut self) {
        if let Some(step_ns) = self.clock.step() {
            foreign::log(
                move || tracing::warn!(target: crate::LOG, step_ns, "the wall clock was stepped"),
            );
            self.own.push(Event::ClockStepped { step_ns });
        }
        if let Some(crossing) = self.ratio.look(Uptime::now(), self.shared.counts()) {
            self.tell(crossing);
        }
        self.inspect();
        self.remind();
        self.own
            .extend(self.shared.anchors.reports().into_iter().map(Event::Anchor));
        self.look_at_finished();
        let position = self.log.position.as_ref();
        if let Some(position) = position.filter(|position| position.is_intact()) {
            let (checkpoint, now) = (&position.checkpoint, Uptime::now());
            self.shared.anchors.settled(checkpoint, now, false);
        }
        self.shared.application.tick();
        self.shared.vitals.beat(self.ratio.is_degraded());
        self.shared.publish_all();
    }

    /// Reports that the share of lost records has crossed the threshold. Its record is not urgent;
    /// the log and the hook get it now, even if nothing can be written.
    fn tell(&mut self, crossing: Degradation) {
        let Degradation {
            degraded,
            window,
            attempts,
            failures,
        } = crossing;
        let window_s = window.as_secs();
        foreign::log(move || {
            if degraded {
                tracing::error!(target: crate::LOG,
                    window_s,
                    attempts,
                    failures,
                    "the audit trail loses more records than it may: see whether its disk is full, slow or failing"
                );
            } else {
                tracing::warn!(target: crate::LOG,
                    window_s,
                    attempts,
                    failures,
                    "the audit trail loses no more records than it may again"
                );
            }
        });
        self.own.push(Event::AuditDegraded {
            degraded,
            window_s,
            attempts,
            failures,
        });
        if let Some(bell) = &self.bell {
            bell.ring(crossing);
        }
    }

    /// Writes the present records, until they are written, the disk refuses or needs a rest, or it
    /// is time for other work. Later records wait for their own turn: a batch grows while the disk
    /// is busy.
    pub(super) fn drain(&mut self, until: Instant) {
        let failures = self.backoff.total();
        self.take();
        while !self.pending.is_empty() && self.commit().is_ok() {
            self.rotate();
            if self.shared.queue.first_gap().is_some() {
                // The disk works, so earlier losses are recorded before the records behind them.
                self.take();
            }
            let wants_rest = self.backoff.total() > failures && self.backoff.is_resting();
            if wants_rest || Instant::now() >= until {
                break;
            }
        }
    }

    fn take(&mut self) {
        for gap in self.shared.queue.take(&mut self.pending, &mut self.own) {
            foreign::log(move || log_gap(&gap));
        }
    }

    /// Makes the first records of `pending` durable.
    fn commit(&mut self) -> Result<(), LogError> {
        if let Err(error) = self.check_memory() {
            self.report(&error);
            return Err(error);
        }
        let mut count = self.batch();
        let mut outcome = if self.log.is_open() {
            self.log.append(self.pending.iter().take(count))
        } else {
            self.begin_segment(count)
        };
        if let Err(error) = &outcome
            && !self.log.is_open()
            && self.header.is_none()
        {
            self.poison(error);
            count = self.batch();
            outcome = self.begin_segment(count);
        }
        match outcome {
            Ok(()) => self.settle(count),
            Err(error) => {
                self.report(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns how many of the pending records are written together.
    ///
    /// A record behind a gap in the numbers never becomes durable before the `RecordsLost` that
    /// explains the gap. Otherwise a process killed in between would leave a trail that looks
    /// tampered with.
    fn batch(&self) -> usize {
        let limit = if self.shared.queue.is_failing() {
            CAUTIOUS_BATCH
        } else {
            MAX_BATCH
        };
        let explained = self.pending.iter().filter_map(Record::first_lost).min();
        let gap = explained
            .into_iter()
            .chain(self.shared.queue.first_gap())
            .min();
        let before = gap.map_or(self.pending.len(), |gap| {
            self.pending.partition_point(|record| record.seq < gap)
        });
        if before > 0 {
            return before.min(limit);
        }
        let last = self
            .pending
            .iter()
            .rposition(|record| record.first_lost().is_some());
        last.map_or(self.pending.len(), |last| last.saturating_add(1))
    }

    /// Ensures that nothing is built on an end of the trail in which a bit has flipped.
    fn check_memory(&mut self) -> Result<(), LogError> {
        if let Some(error) = self.log.check_memory()?
            && self.header.is_none()
        {
            self.poison(&error);
        }
        Ok(())
    }

    /// Records that the open segment was given up, once for each segment.
    fn poison(&mut self, error: &LogError) {
        let segment = self
            .log
            .position
            .as_ref()
            .map_or(0, |position| position.segment);
        let words = error.to_string();
        foreign::log(move || {
            tracing::error!(target: crate::LOG, segment, error = %words, "the audit trail's segment is given up; its unsynced records are written again");
        });
        self.given_up = self.given_up.saturating_add(1);
        self.failed(error);
        self.disturbed = error.is_disturbance();
        let WriteFailure { operation, cause } = error.to_failure();
        let poisoned = Event::SegmentPoisoned {
            segment,
            operation,
            cause,
        };
        if let Some(last) = self.pending.back_mut()
            && closing::is_closing(last)
        {
            // This `TrailClosed` was not acknowledged and is no longer the last record, so another
            // record takes its number.
            *last = self.shared.queue.instead_of(last, poisoned);
            self.own.push(self.shared.closing_event());
        } else {
            self.own.push(poisoned);
        }
        self.take();
    }

    fn failed(&mut self, error: &LogError) {
        self.backoff.failed(Instant::now());
        self.failure = Some(error.to_failure());
    }

    /// Checks that the open segment is still there, also while nothing is recorded.
    fn inspect(&mut self) {
        if let Err(error) = self.log.inspect() {
            self.poison(&error);
        }
    }

    /// Marks the first `count` records as durable.
    fn settle(&mut self, count: usize) {
        let Some(checkpoint) = self.log.position.as_ref().map(|end| &end.checkpoint) else {
            return;
        };
        let checkpoint = Arc::clone(checkpoint);
        let settled = self.pending.drain(..count);
        let mut last = None;
        let mut oldest = None;
        let mut urgent = false;
        for record in settled {
            last = Some(record.seq);
            oldest.get_or_insert_with(|| self.shared.queue.made(&record));
            urgent |= record.is_worth_anchoring();
            if let Some(below) = record.numbers_below() {
                self.shared.queue.settle_numbers(below);
            }
            self.closed = closing::is_closing(&record)
                .then(|| Receipt::new(record.seq, Arc::clone(&checkpoint)));
        }
        // Anchors come first: otherwise a record that is neither queued nor waits for an anchor
        // would count as anchored.
        let oldest = oldest.unwrap_or_else(Uptime::now);
        self.shared.anchors.settled(&checkpoint, oldest, urgent);
        self.shared.queue.settle(last, checkpoint, &self.pending);
    }

    fn report(&mut self, error: &LogError) {
        self.failed(error);
        self.shared.queue.report_failure(error.to_failure());
        self.remind();
    }

    /// Logs that nothing can be written: when that begins, and again while it lasts.
    fn remind(&mut self) {
        let queue = &self.shared.queue;
        if !queue.is_failing() {
            self.reminded = None;
            return;
        }
        let Some(WriteFailure { operation, cause }) = self.failure.clone() else {
            return;
        };
        if self.reminded.is_some_and(|at| at.elapsed() < REMINDER) {
            return;
        }
        self.reminded = Some(Instant::now());
        let Backlog { records, oldest } = queue.backlog();
        let since = Time::now().before(oldest);
        foreign::log(move || {
            tracing::error!(target: crate::LOG,
                error = %format_args!("{operation}: {cause}"),
                records,
                %since,
                "the audit trail cannot be written; its records stay in memory and are tried again"
            );
        });
    }
}

fn log_gap(gap: &Lost) {
    tracing::error!(target: crate::LOG,
        first = gap.first.value(),
        count = gap.count,
        since = %gap.first_time,
        "the audit trail has no room: records are lost"
    );
}
