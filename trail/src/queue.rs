//! The path of a record from its caller to the writer's thread: one bounded queue under one short
//! lock.
//!
//! A record gets its number and its times under the lock, so the order in the queue is the order of
//! the numbers. Recording never waits for the disk and never allocates. The room is reserved when
//! the trail is opened, a part of it for critical records only.
//!
//! A record that does not fit keeps its number and is counted in a run that the writer turns into
//! `RecordsLost`. It gets no number if the durable bound of the numbers is near. This module knows
//! nothing of files. The writer reports how far the trail is durable, and the queue wakes the
//! callers that wait.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::clock::{Time, Uptime};
use super::event::{Event, LossCause, Lost, Mark, Seq, Severity, Text};
use super::record::Record;
use super::threads::{Condvar, Instant, Mutex, MutexGuard};
use super::{NotDurable, Queued, Receipt};
use crate::application::{Application, Entry};
use crate::foreign;
use crate::health::Counters;
use crate::process::{ForkMark, Forked};

mod numbers;
mod taking;

use numbers::Numbers;

/// The room that a record may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lane {
    Ordinary,
    /// May use the reserved room, and wakes the writer unless foreign code records.
    Critical,
}

impl Lane {
    pub(crate) fn of(severity: Severity) -> Self {
        match severity {
            Severity::Critical => Self::Critical,
            Severity::Info | Severity::Warn => Self::Ordinary,
        }
    }
}

/// Fields that every recording touches come first, here and in [`State`], in as few cache lines as
/// possible. A single record finds all of them cold.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Queue<A: Application> {
    forked: ForkMark,
    opened: Uptime,
    capacity: usize,
    reserve: usize,
    pub(crate) counters: Counters,
    state: OwnLines<Mutex<State<A>>>,
    /// The writer waits here for work.
    work: Condvar,
    /// Callers that need a durable record wait here.
    settled: Condvar,
}

/// Starts at a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct OwnLines<T>(T);

#[derive(Debug)]
#[repr(C)]
struct State<A: Application> {
    numbers: Numbers,
    records: VecDeque<Record<A>>,
    /// Records that the writer holds and that are not durable yet. They count against the room,
    /// too.
    in_flight: usize,
    /// When the oldest of them was made, as the records state it.
    in_flight_since: Option<u64>,
    urgent: bool,
    /// The reason why nothing is accepted any more.
    refuses: Option<Refusal>,
    writer: Writer,
    /// When the writer gives up.
    closing: Option<Instant>,
    lost: VecDeque<Gap>,
    /// Every accepted record below this number is durable.
    durable_below: u64,
    checkpoint: Option<Arc<Checkpoint>>,
    /// The last attempt failed, and it held all accepted records below this number.
    failed_below: u64,
    failure: Option<WriteFailure>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refusal {
    Closed,
    Displaced,
    WriterStopped,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Writer {
    Running,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    lost: Lost,
    logged: bool,
}

/// The reason why the trail could not be written.
#[derive(Clone, Debug)]
pub(crate) struct WriteFailure {
    pub(crate) operation: &'static str,
    pub(crate) cause: Text,
}

impl WriteFailure {
    /// Returns the answer for a waiting record.
    fn of(&self, seq: Seq) -> NotDurable {
        NotDurable::WriteFailed {
            seq,
            operation: self.operation,
            cause: self.cause.clone().into(),
            record: Queued::default(),
        }
    }
}

/// A record that was not queued.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The event's name.
    pub(crate) event: &'static str,
    /// Has a number if a later `RecordsLost` accounts for it.
    pub(crate) mark: Mark,
    pub(crate) error: NotDurable,
}

/// The reason why the writer woke up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wake {
    Work,
    /// The trail is being closed. The writer may retry until this time.
    Close(Instant),
}

impl<A: Application> Queue<A> {
    /// Creates a queue for `capacity` records and `reserve` critical ones beyond, with numbers from
    /// `next`.
    pub(crate) fn new(next: Seq, opened: Uptime, capacity: usize, reserve: usize) -> Self {
        let room = capacity.saturating_add(reserve);
        Self {
            state: OwnLines(Mutex::new(State {
                numbers: Numbers::new(next.0),
                records: VecDeque::with_capacity(room),
                in_flight: 0,
                in_flight_since: None,
                // At least one accepted record separates two runs.
                lost: VecDeque::with_capacity(room.saturating_add(1)),
                urgent: false,
                refuses: None,
                closing: None,
                durable_below: next.0,
                checkpoint: None,
                failed_below: 0,
                failure: None,
                writer: Writer::Running,
            })),
            work: Condvar::new(),
            settled: Condvar::new(),
            forked: ForkMark::find(),
            opened,
            capacity,
            reserve,
            counters: Counters::default(),
        }
    }

    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_add(self.reserve)
    }

    /// Returns how many ordinary records wake the writer early. The room that is left then must
    /// last for the slowest sync, so it is most of the room.
    fn worth_writing(&self) -> usize {
        self.capacity / 8
    }

    /// No code panics while it holds the lock, so a poisoned lock protects consistent data.
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the process. Fails in a forked child, where the lock may be held for ever.
    pub(crate) fn check_process(&self) -> Result<(), Forked> {
        self.forked.check()
    }

    /// Numbers a record and queues it, or counts it as lost. Returns its number and time.
    ///
    /// Inlined into its few callers: a single record waits for each cold page of code.
    #[inline(always)]
    pub(crate) fn push(&self, event: Event<A>, lane: Lane) -> Result<(Seq, Time), Refused> {
        let mut state = self.lock();
        self.counters.count_attempt();
        let time = Time::now();
        if matches!(&event, Event::Entry(entry) if entry.is_failed_verification()) {
            self.counters.count_verification_failure(time);
        }
        if let Some(refusal) = state.refuses {
            return Err(self.refuse(refusal, time, &event));
        }
        let held = state.records.len().saturating_add(state.in_flight);
        // Numbers have a reserve for critical records, too.
        let (room, spare) = match lane {
            Lane::Ordinary => (self.capacity, self.reserve),
            Lane::Critical => (self.room(), 0),
        };
        let number = (held < room).then(|| state.numbers.take_told(spare));
        let Some(seq) = number.flatten() else {
            return Err(self.lose(&mut state, time, &event));
        };
        state.records.push_back(Record {
            seq,
            time,
            mono_us: self.mono_us(),
            event,
        });
        let is_worth_writing = state.records.len() == self.worth_writing();
        // Records by foreign code are never urgent. Otherwise an anchor that records each
        // checkpoint of a critical record would keep the writer and itself busy for ever.
        let is_urgent = lane == Lane::Critical && !foreign::is_inside();
        if is_urgent {
            state.urgent = true;
        }
        drop(state);
        if is_urgent || is_worth_writing {
            self.work.notify_one();
        }
        Ok((seq, time))
    }

    #[cold]
    fn refuse(&self, refusal: Refusal, time: Time, event: &Event<A>) -> Refused {
        self.counters.count_failures(1);
        Refused {
            event: event.name(),
            mark: Mark { seq: None, time },
            error: match refusal {
                Refusal::Closed => NotDurable::Closed,
                Refusal::Displaced => NotDurable::Displaced,
                Refusal::WriterStopped => NotDurable::WriterStopped,
            },
        }
    }

    #[cold]
    fn lose(&self, state: &mut State<A>, time: Time, event: &Event<A>) -> Refused {
        self.counters.count_failures(1);
        // The numbers left below the bound are for records that find room.
        let seq = state.numbers.take_told(self.room());
        match seq {
            Some(seq) => state.lose(seq, time),
            None => state.lose_unnumbered(time),
        }
        Refused {
            event: event.name(),
            mark: Mark { seq, time },
            error: seq.map_or(NotDurable::NoNumber, |seq| NotDurable::QueueFull { seq }),
        }
    }

    fn mono_us(&self) -> u64 {
        Uptime::now().microseconds_since(self.opened)
    }

    /// Waits until the record is durable, the attempt to write it has failed, or `limit` has
    /// passed.
    pub(crate) fn wait_durable(&self, seq: Seq, limit: Duration) -> Result<Receipt, NotDurable> {
        let started = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.answer(seq) {
                return answer;
            }
            let waited = started.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                // If the writer has rested since a failure, the reason is that failure, not a slow
                // disk.
                return Err(match &state.failure {
                    Some(failure) => failure.of(seq),
                    None => NotDurable::DeadlineExceeded {
                        seq,
                        waited,
                        record: Queued::default(),
                    },
                });
            };
            state = self
                .settled
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Returns whether the record is durable, the attempt to write it has failed, or the writer has
    /// ended.
    pub(crate) fn has_answer(&self, seq: Seq) -> bool {
        self.lock().answer(seq).is_some()
    }

    /// Returns the final result of an accepted record, or `None` if it is still open.
    pub(crate) fn fate(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>> {
        let state = self.lock();
        match state.durable(seq) {
            Some(checkpoint) => Some(Ok(Receipt::new(seq, checkpoint))),
            None => state.stopped().map(Err),
        }
    }

    /// Counts a critical record whose caller gets the answer that it is not durable.
    pub(crate) fn count_critical_failure(&self) {
        let _guard = self.lock();
        self.counters.count_critical_failure(Time::now());
    }

    /// Returns the number of the last accepted record that is not known to be durable. Asks the
    /// writer to hurry, unless foreign code asks.
    pub(crate) fn hurry(&self) -> Option<Seq> {
        let mut state = self.lock();
        let last = state.numbers.next().checked_sub(1)?;
        if state.durable_below > last {
            return None;
        }
        if state.records.is_empty() && state.in_flight == 0 && state.lost.is_empty() {
            return None;
        }
        if foreign::is_inside() {
            return Some(Seq(last));
        }
        state.urgent = true;
        // The answer must come from the attempt requested here, not from an earlier one.
        state.failed_below = 0;
        drop(state);
        self.work.notify_one();
        Some(Seq(last))
    }

    /// Accepts nothing more, and asks the writer to finish by `deadline`.
    pub(crate) fn close(&self, deadline: Instant) {
        let mut state = self.lock();
        state.closing = Some(deadline);
        if state.refuses != Some(Refusal::Displaced) {
            state.refuses = Some(Refusal::Closed);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Waits until the writer has ended. Returns false if it has not ended by `deadline`.
    pub(crate) fn wait_stopped(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.writer == Writer::Running {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .settled
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl<A: Application> State<A> {
    /// Returns the lowest number that the writer has not taken.
    fn first_queued(&self) -> u64 {
        self.records
            .front()
            .map_or(self.numbers.next(), |record| record.seq.0)
    }

    fn lose(&mut self, seq: Seq, time: Time) {
        if let Some(Gap { lost, .. }) = self.lost.back_mut()
            && lost.last.0.checked_add(1) == Some(seq.0)
        {
            lost.last = seq;
            lost.last_time = time;
            lost.count = lost.count.saturating_add(1);
            return;
        }
        self.lost.push_back(Gap {
            lost: Lost {
                first: seq,
                last: seq,
                count: 1,
                unnumbered: 0,
                cause: LossCause::QueueFull,
                first_time: time,
                last_time: time,
            },
            logged: false,
        });
    }

    /// Counts a loss without a number in the run of losses before it. Each run has a number in the
    /// trail, so a run without one takes the next number, which no caller knows, for its first
    /// loss.
    fn lose_unnumbered(&mut self, time: Time) {
        match self.lost.back_mut() {
            Some(Gap { lost, .. }) => {
                lost.last_time = time;
                lost.unnumbered = lost.unnumbered.saturating_add(1);
            }
            None => {
                let seq = self.numbers.take();
                self.lose(seq, time);
            }
        }
    }

    /// Returns why records that are not durable never will be, if the writer has ended.
    fn stopped(&self) -> Option<NotDurable> {
        (self.writer == Writer::Stopped).then_some(match self.refuses {
            Some(Refusal::Displaced) => NotDurable::Displaced,
            _ => NotDurable::WriterStopped,
        })
    }

    /// Returns the answer for callers that wait for a record, if there is one.
    fn answer(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>> {
        if let Some(checkpoint) = self.durable(seq) {
            return Some(Ok(Receipt::new(seq, checkpoint)));
        }
        if self.failed_below > seq.0
            && let Some(failure) = &self.failure
        {
            return Some(Err(failure.of(seq)));
        }
        self.stopped().map(Err)
    }

    fn durable(&self, seq: Seq) -> Option<Arc<Checkpoint>> {
        if self.durable_below > seq.0 {
            self.checkpoint.clone()
        } else {
            None
        }
    }
}
