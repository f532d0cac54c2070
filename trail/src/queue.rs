//! The way from whoever records to the writer's thread: one bounded queue under one short lock.
//!
//! A record gets its number and its times under the lock, so the order in the queue is the order of
//! the numbers. Recording never waits for the disk and never allocates: the room is reserved when
//! the trail is opened, a part of it for critical records alone. What does not fit keeps its number
//! and is counted in a run that the writer turns into `RecordsLost`; it gets none if the durable bound
//! of the numbers is near. This module knows nothing of files; it learns from the writer how far the
//! trail is durable, and tells those who wait.

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

/// Which room a record may take.
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

/// What recording touches comes first, here and in [`State`], in as few cache lines as that needs: a
/// record now and then finds all of them cold.
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
    /// Those who need a durable record wait here.
    settled: Condvar,
}

/// Begins with a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct OwnLines<T>(T);

#[derive(Debug)]
#[repr(C)]
struct State<A: Application> {
    numbers: Numbers,
    records: VecDeque<Record<A>>,
    /// Records that the writer holds and that are not durable yet. They take room, too.
    in_flight: usize,
    /// When the oldest of them was made, as records say it.
    in_flight_since: Option<u64>,
    urgent: bool,
    /// Why nothing is accepted any more.
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

/// Why the trail could not be written.
#[derive(Clone, Debug)]
pub(crate) struct WriteFailure {
    pub(crate) operation: &'static str,
    pub(crate) cause: Text,
}

impl WriteFailure {
    /// What it means for a record that waits.
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
    /// It has a number if that is accounted for by a later `RecordsLost`.
    pub(crate) mark: Mark,
    pub(crate) error: NotDurable,
}

/// What woke the writer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wake {
    Work,
    /// The trail is being closed; the writer may try until then.
    Close(Instant),
}

impl<A: Application> Queue<A> {
    /// A queue for `capacity` records and `reserve` critical ones beyond, numbering from `next`.
    pub(crate) fn new(next: Seq, opened: Uptime, capacity: usize, reserve: usize) -> Self {
        let room = capacity.saturating_add(reserve);
        Self {
            state: OwnLines(Mutex::new(State {
                numbers: Numbers::new(next.0),
                records: VecDeque::with_capacity(room),
                in_flight: 0,
                in_flight_since: None,
                // Two runs are parted by at least one record that was accepted.
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

    /// How many ordinary records wake the writer before their time. The room that is left then must
    /// last as long as the slowest sync takes, so it is most of it.
    fn worth_writing(&self) -> usize {
        self.capacity / 8
    }

    /// No code panics while it holds the lock, so a poisoned lock protects consistent data.
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails in a forked child, where the lock may be held for ever.
    pub(crate) fn check_process(&self) -> Result<(), Forked> {
        self.forked.check()
    }

    /// Numbers a record and queues it, or counts it as lost. Returns its number and time.
    ///
    /// Inlined where it is called, which is in few places: a record now and then waits for each page of
    /// code.
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
        // What foreign code records does not hurry: an anchor that is given each critical record's
        // checkpoint, and records that, would keep the writer and itself at work for ever.
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
        // What is left below the bound is for records that find room.
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

    /// Waits until the record is durable, the attempt to write it failed, or `limit` has passed.
    pub(crate) fn wait_durable(&self, seq: Seq, limit: Duration) -> Result<Receipt, NotDurable> {
        let started = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.answer(seq) {
                return answer;
            }
            let waited = started.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                // A disk that was left alone after a failure has not been too slow.
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

    /// Whether the record is durable, the attempt to write it failed, or the writer has ended.
    pub(crate) fn has_answer(&self, seq: Seq) -> bool {
        self.lock().answer(seq).is_some()
    }

    /// What has become of an accepted record, if that is final.
    pub(crate) fn fate(&self, seq: Seq) -> Option<Result<Receipt, NotDurable>> {
        let state = self.lock();
        match state.durable(seq) {
            Some(checkpoint) => Some(Ok(Receipt::new(seq, checkpoint))),
            None => state.stopped().map(Err),
        }
    }

    /// Counts a critical record that its caller was told is not durable.
    pub(crate) fn count_critical_failure(&self) {
        let _guard = self.lock();
        self.counters.count_critical_failure(Time::now());
    }

    /// The number of the last record that was accepted and is not known to be durable. Asks the
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
        // The answer wanted is that of the attempt asked for here, not of an earlier one.
        state.failed_below = 0;
        drop(state);
        self.work.notify_one();
        Some(Seq(last))
    }

    /// Accepts nothing more, and asks the writer to finish by then.
    pub(crate) fn close(&self, deadline: Instant) {
        let mut state = self.lock();
        state.closing = Some(deadline);
        if state.refuses != Some(Refusal::Displaced) {
            state.refuses = Some(Refusal::Closed);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Waits until the writer has ended; false if it has not by `deadline`.
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
    /// The lowest number that the writer has not taken.
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

    /// Counts a loss that has no number in the run of losses before it. Each run has a number in the
    /// trail: one without takes the next, which nobody was told, for its first loss.
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

    /// Why what is not durable will never be, if the writer has ended.
    fn stopped(&self) -> Option<NotDurable> {
        (self.writer == Writer::Stopped).then_some(match self.refuses {
            Some(Refusal::Displaced) => NotDurable::Displaced,
            _ => NotDurable::WriterStopped,
        })
    }

    /// What there is to say to those who wait for a record.
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
