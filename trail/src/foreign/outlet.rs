//! A thread that calls foreign code for all trails of the process, and the bounded queue before it.
//!
//! Handing over never waits. What finds no room, and what panicked, is counted, and told before the
//! next call, or once nothing was called for a while. The thread lives as long as the process does. A
//! forked child has no such thread, and nothing is handed over there. This module does not know what it
//! calls.

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
    /// How long the thread waits for the next call before it tells what was missed without one. Each time
    /// that telling fails, or makes what is missed next, it waits twice as long, until a call has come through.
    quiet: Duration,
    /// Tells how many calls came to nothing, and returns whether that was told.
    tell_missed: fn(u64) -> bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    is_started: bool,
    jobs: VecDeque<Job>,
    /// How many were ever handed over, and how many of them are over.
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

    /// Counts a call that is not made.
    pub(super) fn miss(&self) {
        if process::check().is_ok() {
            let mut state = self.lock();
            state.missed = state.missed.saturating_add(1);
            self.changed.notify_all();
        }
    }

    /// Waits until all that was handed over is done, and what was missed is told, at most until `deadline`.
    pub(super) fn settle(&self, deadline: Instant) {
        if process::check().is_err() || is_inside() {
            return;
        }
        let mut state = self.lock();
        if state.missed > 0 && state.is_started && state.jobs.is_empty() {
            // What was missed is told before the next call.
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

    /// The thread.
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

    /// The next call, and how many were missed. None if it is quiet and some were.
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
