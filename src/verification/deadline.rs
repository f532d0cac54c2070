//! A verification with a time limit for its outcome, and the consequence of exceeding it.
//!
//! Its thread may never return: a callback or a driver may hang. So the writer's thread looks at it
//! regularly, and never waits. It queues the record of a failure, and ends serving at a later look,
//! once the trail has answered. A verification that returns late does the same itself, if that has
//! not happened yet. While the writer hangs in a system call, nothing looks.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use vram_trail::threads::{Instant, Mutex, MutexGuard};
use vram_trail::{Text, foreign, process};

use super::{Findings, Incident, Inquiry, Said};
use crate::event::Reason;

/// The time limit of a verification, and the consequence of exceeding it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) limit: Duration,
    pub(crate) missed: Missed,
}

/// The consequence of exceeding the time limit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Missed {
    /// A failure, which ends serving, since nothing else would.
    Fails,
    /// No answer. Serving ends when the last check has become too old.
    Lapses,
}

/// A verification was too late. That is recorded.
pub(crate) enum Late {
    Failed(Box<Incident>),
    Lapsed { limit: Duration },
}

/// A verification with a deadline.
#[derive(Debug)]
pub(super) struct Timed {
    inquiry: Inquiry,
    deadline: Deadline,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Running,
    /// An outcome was found in time, or is a failure of another kind.
    Ended,
    Lapsed,
    /// The record of the failure is queued.
    Failing(Said),
    /// Serving has ended.
    Failed(Box<Incident>),
}

/// The verifications with a deadline.
#[derive(Debug, Default)]
pub(crate) struct AllTimed(std::sync::Mutex<Vec<Weak<Timed>>>);

impl Timed {
    pub(super) fn begin(inquiry: &Inquiry, deadline: Deadline) -> Arc<Self> {
        let timed = Arc::new(Self {
            inquiry: inquiry.clone(),
            deadline,
            began: Instant::now(),
            state: Mutex::new(State::Running),
        });
        inquiry.recorder.application().timed().add(&timed);
        timed
    }

    /// Stops the clock.
    pub(super) fn stop(&self) {
        // A forked child has no outcome to give, and the lock may be held there for ever.
        if process::check().is_err() {
            return;
        }
        let mut state = self.lock();
        self.expire(&mut state);
        if let State::Running = *state {
            *state = State::Ended;
        }
    }

    /// Stops the clock, and returns the consequence if it was late. Waits for the trail if that is
    /// a failure.
    pub(super) fn outcome(&self) -> Result<(), Late> {
        if process::check().is_err() {
            return Ok(());
        }
        self.stop();
        // The lock is released before waiting: the writer, which must answer, takes it.
        let state = std::mem::replace(&mut *self.lock(), State::Ended);
        match state {
            State::Running | State::Ended => Ok(()),
            State::Lapsed => Err(Late::Lapsed {
                limit: self.deadline.limit,
            }),
            State::Failing(said) => Err(Late::Failed(Box::new(self.inquiry.conclude(said)))),
            State::Failed(incident) => Err(Late::Failed(incident)),
        }
    }

    /// Checks whether the time is over, and whether the trail has answered. Never waits.
    fn look(&self) {
        let mut state = self.lock();
        self.expire(&mut state);
        if let State::Failing(said) = &*state
            && self.inquiry.recorder.has_answer(&said.record)
            && let State::Failing(said) = std::mem::replace(&mut *state, State::Ended)
        {
            *state = State::Failed(Box::new(self.inquiry.conclude_now(said)));
        }
    }

    /// Records the consequence if the time is over.
    fn expire(&self, state: &mut State) {
        let limit = self.deadline.limit;
        if !matches!(state, State::Running) || self.began.elapsed() < limit {
            return;
        }
        let words: Text = format!("no answer within the deadline of {limit:?}").into();
        *state = match self.deadline.missed {
            Missed::Lapses => {
                self.inquiry.give_up(words);
                State::Lapsed
            }
            Missed::Fails => State::Failing(self.inquiry.say(
                Reason::DeadlineExceeded,
                Findings {
                    detail: Some(words),
                    ..Findings::default()
                },
            )),
        };
        let Inquiry {
            subject, operation, ..
        } = &self.inquiry;
        let (subject, operation) = (subject.clone(), *operation);
        foreign::log(move || {
            tracing::error!(
                shard = %subject.shard,
                operation,
                ?limit,
                "a check has no answer within its deadline: see whether its callback or its device hangs"
            );
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AllTimed {
    fn add(&self, timed: &Arc<Timed>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == list.capacity() {
            list.retain(|entry| entry.strong_count() > 0);
        }
        list.push(Arc::downgrade(timed));
    }

    /// Checks each one, without waiting.
    pub(crate) fn look(&self) {
        let mut alive = Vec::new();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|entry| {
                let entry = entry.upgrade();
                let lives = entry.is_some();
                alive.extend(entry);
                lives
            });
        // Not under the lock: this may drop the last handle on a trail.
        alive.iter().for_each(|timed| timed.look());
    }
}
