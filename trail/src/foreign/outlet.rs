//! A thread that calls foreign code for all trails of the process, and the bounded queue before it.
//!
//! Handing over never waits. Calls that find no room, or that panic, are counted. The count is
//! reported before the next call, or after a while without calls. The thread lives as long as the
//! process does. A forked child has no such thread, and nothing is handed over there. This module
//! does not know what it calls.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{call, is_inside};
use crate::process;

type Job = Box<dyn FnOnce() + Send>;

const LONGEST_QUIET: Duration = Duration::from_secs(3600);

pub(super) struct Outlet {
    name: &'static str,
    most: usize,
    /// How long the thread waits for the next call before it reports missed calls without one. The
    /// wait doubles each time that the report fails, or causes the next miss, until a call has
    /// succeeded.
    quiet: Duration,
    /// Reports the number of missed calls, and returns whether that succeeded.
    tell_missed: fn(u64) -> bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    is_started: bool,
    jobs: VecDeque<Job>,
    /// How many calls were ever handed over, and how many of them are finished.
    handed: u64,
    done: u64,
    missed: u64,
}

impl Outlet {
    pub(super) const fn new(
        name: &'static str,
        most: usize,
        quiet: Duration,
        tell_missed: fn(u64) -> bool,
    ) -> Self {
        Self {
            name,
            most,
            quiet,
            tell_missed,
            state: Mutex::new(State {
                is_started: false,
                jobs: VecDeque::new(),
                handed: 0,
                done: 0,
                missed: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// No code panics while it holds the lock, so a poisoned lock protects consistent data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&'static self) -> io::Result<()> {
        let mut state = self.lock();
        if !state.is_started {
            std::thread::Builder::new()
                .name(self.name.into())
                .spawn(move || self.run())?;
            state.is_started = true;
        }
        Ok(())
    }

    /// Returns whether there was room.
    pub(super) fn hand_over(&self, job: Job) -> bool {
        // In a forked child the lock may be held for ever.
        if process::check().is_err() {
            return false;
        }
        let mut state = self.lock();
        if state.jobs.len() >= self.most {
            state.missed = state.missed.saturating_add(1);
            return false;
        }
        if state.is_started {
            state.push(job);
            self.changed.notify_all();
        } else {
            drop(state);
            let _panicked = call(job);
        }
        true
    }

    /// Counts a call that was not made.
    pub(super) fn miss(&self) {
        if process::check().is_ok() {
            let mut state = self.lock();
            state.missed = state.missed.saturating_add(1);
            self.changed.notify_all();
        }
    }

    /// Waits until all calls handed over are done and the missed ones are reported, at most until
    /// `deadline`.
    pub(super) fn settle(&self, deadline: Instant) {
        if process::check().is_err() || is_inside() {
            return;
        }
        let mut state = self.lock();
        if state.missed > 0 && state.is_started && state.jobs.is_empty() {
            // Missed calls are reported before the next call.
            state.push(Box::new(|| {}));
            self.changed.notify_all();
        }
        let handed = state.handed;
        while state.done < handed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Runs the thread.
    fn run(&self) {
        let mut quiet = self.quiet;
        loop {
            let (job, missed) = self.next(quiet);
            let told = missed > 0 && (self.tell_missed)(missed);
            let outcome = job.map(call);
            let mut state = self.lock();
            if told {
                state.missed = state.missed.saturating_sub(missed);
            }
            let Some(outcome) = outcome else {
                quiet = quiet.saturating_mul(2).min(LONGEST_QUIET);
                continue;
            };
            state.done = state.done.saturating_add(1);
            if outcome.is_err() {
                state.missed = state.missed.saturating_add(1);
            } else {
                quiet = self.quiet;
            }
            self.changed.notify_all();
        }
    }

    /// Returns the next call, and how many were missed. `None` if there was no call for `quiet` and
    /// some were missed.
    fn next(&self, quiet: Duration) -> (Option<Job>, u64) {
        let mut state = self.lock();
        let mut since = None;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return (Some(job), state.missed);
            }
            let left = if state.missed > 0 {
                let since: &Instant = since.get_or_insert_with(Instant::now);
                quiet.saturating_sub(since.elapsed())
            } else {
                LONGEST_QUIET
            };
            if left.is_zero() {
                return (None, state.missed);
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl State {
    fn push(&mut self, job: Job) {
        self.handed = self.handed.saturating_add(1);
        self.jobs.push_back(job);
    }
}
