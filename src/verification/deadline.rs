//! A verification that has to come to an outcome within a time, and what follows if it does not.
//!
//! Its thread may never come back: a callback that does not return, a driver that hangs. So the writer's
//! thread looks at it now and then, and never waits: it queues the record of a failure, and ends what is
//! served at a later look, once the trail has answered. A verification that comes back late does the same by
//! itself, if that has not happened yet. While the writer hangs in a system call, nothing looks.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use vram_trail::threads::{Instant, Mutex, MutexGuard};
use vram_trail::{Text, foreign, process};

use super::{Findings, Incident, Inquiry, Said};
use crate::event::Reason;

/// How long a verification may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) limit: Duration,
    pub(crate) missed: Missed,
}

/// What it comes to if the time is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Missed {
    /// To a failure, which ends what is served: nothing else would.
    Fails,
    /// To no answer: what is served ends when it has become too old.
    Lapses,
}

/// A verification was too late. That is on record.
pub(crate) enum Late {
    Failed(Box<Incident>),
    Lapsed { limit: Duration },
}

/// A verification that has a deadline.
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
    /// What was served has ended.
    Failed(Box<Incident>),
}

/// Verifications that have a deadline.
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

    /// Stops the clock, and says what being late has come to. Waits for the trail if that is a failure.
    pub(super) fn outcome(&self) -> Result<(), Late> {
        if process::check().is_err() {
            return Ok(());
        }
        self.stop();
        // The lock is let go before waiting: the writer, who is waited for, takes it.
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

    /// Sees whether the time is over, and whether the trail has answered. Waits for nothing.
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

    /// Records it if the time is over.
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

    /// Looks at each, without waiting.
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
