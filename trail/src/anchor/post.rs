//! The path of a checkpoint from the writer to each anchor: a slot that holds the newest one.
//!
//! Newer checkpoints cover older ones, so nothing queues up behind a slow anchor. Only callers that
//! open or close a trail wait here, for a limited time. Failures of an anchor are stored here as
//! events of the trail, and the writer collects them. This module knows which threads wait for
//! which event. It does not call an anchor.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::super::checkpoint::{Checkpoint, encode_base64};
use super::super::clock::Uptime;
use super::super::event::{Anchoring, Text};
use super::super::threads::{self, Condvar, Instant, Mutex, MutexGuard};
use super::book::{Book, Offer, Schedule};
use super::keeper::{Keeper, Known};
use super::{Anchored, Contradiction, LogCollector, Named, tell};
use crate::{foreign, process};

use state::{Phase, State};

mod state;

/// All anchors of a trail.
#[derive(Debug)]
pub(in super::super) struct Anchors {
    posts: Vec<Arc<Post>>,
    book: Arc<Mutex<Book>>,
    schedule: Schedule,
    log_is_there: AtomicBool,
}

/// One anchor's slot and state.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) name: Arc<str>,
    /// True for the log. It remembers nothing, and gets only checkpoints of critical records and of
    /// closing.
    is_log: bool,
    state: Mutex<State>,
    changed: Condvar,
    book: Arc<Mutex<Book>>,
}

/// Knowledge of an anchor that forbids opening the trail.
#[derive(Clone, Debug)]
pub(in super::super) enum Refuted {
    /// The trail contradicts a checkpoint that its key has signed.
    Contradicts {
        checkpoint: Checkpoint,
        contradiction: Contradiction,
    },
    /// The anchor knows another trail of this worker, and not this one.
    OtherOrigin(String),
    /// The checkpoint covers more leaves than the trail has, and no given key has signed it.
    Unverifiable(Checkpoint),
}

/// The next step of an anchor's thread.
pub(super) enum Next {
    /// Compare: there is time for it.
    Free,
    /// Keep this checkpoint. The flag marks the last attempt.
    Offer(Offer, bool),
    /// End.
    Over,
}

impl Anchors {
    /// Starts a thread for each anchor, and one for the log. Each thread first asks its anchor what
    /// it remembers.
    pub(in super::super) fn start(
        anchors: Vec<Named>,
        known: Known,
        schedule: Schedule,
    ) -> io::Result<Self> {
        let earlier = known.earlier.as_ref();
        let durable = earlier.map_or(0, |earlier| earlier.leaves());
        let mut this = Self {
            posts: Vec::new(),
            book: Arc::new(Mutex::new(Book::new(durable, Uptime::now()))),
            schedule,
            log_is_there: AtomicBool::new(true),
        };
        this.add(Named::new(LogCollector), true, None)?;
        let known = Arc::new(known);
        for anchor in anchors {
            this.add(anchor, false, Some(Arc::clone(&known)))?;
        }
        Ok(this)
    }

    fn add(&mut self, anchor: Named, is_log: bool, known: Option<Arc<Known>>) -> io::Result<()> {
        let post = Arc::new(Post {
            name: anchor.name,
            is_log,
            state: Mutex::new(State {
                phase: Phase::Opening,
                slot: None,
                asked: known.is_some().then(Instant::now),
                failing: false,
                doubted: false,
                compared: known.is_none().then_some(Ok(())),
                reports: Vec::new(),
                ended: false,
            }),
            changed: Condvar::new(),
            book: Arc::clone(&self.book),
        });
        self.posts.push(Arc::clone(&post));
        let keeper = Keeper::new(anchor.anchor, post, known);
        threads::Builder::new()
            .name("vram-anchor".into())
            .spawn(move || keeper.run())
            .map(drop)
    }

    /// Returns their names, the log's first.
    pub(in super::super) fn names(&self) -> Vec<Arc<str>> {
        self.posts
            .iter()
            .map(|post| Arc::clone(&post.name))
            .collect()
    }

    /// Waits until all anchors have compared what they remember, at most until `deadline`. Returns
    /// the first one that refutes the trail, with its name. A later answer is recorded.
    pub(in super::super) fn wait_compared(&self, deadline: Instant) -> Option<(Arc<str>, Refuted)> {
        self.posts.iter().find_map(|post| {
            let state = post.wait(deadline, |state| state.compared.is_some());
            match &state.compared {
                Some(Err(refuted)) => Some((Arc::clone(&post.name), refuted.clone())),
                _ => None,
            }
        })
    }

    /// Marks the trail as open.
    pub(in super::super) fn begin(&self) {
        for post in &self.posts {
            post.enter(Phase::Running);
        }
    }

    /// Takes the newest durable `checkpoint`; its oldest new record was `made` at that time. Hands
    /// it over if it is urgent or due. Never waits.
    pub(in super::super) fn settled(
        &self,
        checkpoint: &Arc<Checkpoint>,
        made: Uptime,
        urgent: bool,
    ) {
        let due = self.book().settle(checkpoint, made, urgent, &self.schedule);
        let Some(offer) = due else { return };
        // Without a log subscriber, the log's thread stays asleep.
        let log = urgent && self.log_is_there.load(Ordering::Relaxed);
        for post in self.posts.iter().filter(|post| log || !post.is_log) {
            post.offer(offer.clone());
        }
    }

    /// Checks whether there is a log and whether it takes checkpoints. Calls foreign code.
    pub(in super::super) fn look_for_log(&self) {
        let is_there = LogCollector::is_there();
        self.log_is_there.store(is_there, Ordering::Relaxed);
        if is_there && !LogCollector::is_heard() {
            for post in self.posts.iter().filter(|post| post.is_log) {
                post.failed(LogCollector::FILTERED.into(), false);
            }
        }
    }

    /// Takes the events about anchors to be recorded since the last call.
    pub(in super::super) fn reports(&self) -> Vec<Anchoring> {
        let look = |post: &Arc<Post>| post.look(self.schedule.patience);
        self.posts.iter().flat_map(look).collect()
    }

    /// Lets each anchor retry once to keep the newest checkpoint, and waits for them at most until
    /// `deadline`.
    pub(in super::super) fn close(&self, deadline: Instant) {
        for post in &self.posts {
            post.enter(Phase::Closing);
        }
        for post in &self.posts {
            let state = post.wait(deadline, |state| state.ended);
            let left = state.slot.as_ref().filter(|_| !state.ended);
            let left = left.map(|offer| offer.checkpoint.size());
            drop(state);
            if let Some(size) = left {
                let anchor = Arc::clone(&post.name);
                foreign::log(move || {
                    tracing::error!(target: crate::LOG, %anchor, size, "the anchor does not answer; the trail's last checkpoint may not be anchored");
                });
            }
        }
    }

    /// Returns the newest checkpoint that an anchor keeps.
    pub(in super::super) fn kept(&self) -> Option<Anchored> {
        self.book().kept.clone()
    }

    /// Returns the age of the oldest record that no anchor covers. `waiting` is the age of the
    /// oldest one that is not durable. Returns zero if there is no such record, or no anchor but
    /// the log.
    pub(in super::super) fn unanchored(&self, waiting: Duration) -> Duration {
        if self.posts.iter().all(|post| post.is_log) {
            return Duration::ZERO;
        }
        let behind = self.book().behind;
        behind.map_or(waiting, |made| Uptime::now().since(made).max(waiting))
    }

    /// Returns the newest checkpoint that was handed over.
    #[cfg(test)]
    pub(in super::super) fn offered(&self) -> Option<Arc<Checkpoint>> {
        self.book().offered.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

impl Drop for Anchors {
    fn drop(&mut self) {
        // In a forked child there are no threads, and the locks may be held for ever.
        if process::check().is_ok() {
            for post in &self.posts {
                post.enter(Phase::Stopped);
            }
        }
    }
}

impl Post {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_all();
    }

    fn offer(&self, offer: Offer) {
        self.lock().slot = Some(offer);
        self.changed.notify_all();
    }

    fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state
    }

    /// Takes the events, after a check whether a call hangs.
    fn look(&self, patience: Duration) -> Vec<Anchoring> {
        let mut state = self.lock();
        let hangs = state.asked.is_some_and(|asked| asked.elapsed() >= patience);
        let failed = (hangs && !state.ended)
            .then(|| self.fail(&mut state, "it does not answer".into()))
            .flatten();
        let reports = std::mem::take(&mut state.reports);
        drop(state);
        tell(failed);
        reports
    }

    /// Returns the outage to be recorded, if it has just begun.
    fn fail(&self, state: &mut State, cause: Text) -> Option<Anchoring> {
        if std::mem::replace(&mut state.failing, true) {
            return None;
        }
        let failed = self.failure(state, cause);
        Some(state.report(failed))
    }

    /// Marks the anchor as failed for good, and records it. This happens also in the middle of an
    /// outage with another cause.
    fn fail_for_good(&self, mut state: MutexGuard<'_, State>, cause: Text) {
        state.failing = true;
        let failed = self.failure(&state, cause);
        state.reports.push(failed.clone());
        drop(state);
        tell(Some(failed));
    }

    fn failure(&self, state: &State, cause: Text) -> Anchoring {
        let newest = state.slot.as_ref();
        Anchoring::Failed {
            anchor: Arc::clone(&self.name),
            cause,
            size: newest.map_or(0, |offer| offer.checkpoint.size()),
        }
    }

    // The rest is the side of the anchor's thread.

    /// Waits until there is something to do. No attempt is made before `not_before`.
    pub(super) fn next(&self, not_before: Option<Instant>, has_to_compare: bool) -> Next {
        let mut state = self.lock();
        loop {
            let left = not_before.map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            });
            match (state.phase, &state.slot) {
                (Phase::Stopped, _) | (Phase::Closing, None) => return Next::Over,
                (Phase::Closing, Some(offer)) => return Next::Offer(offer.clone(), true),
                (Phase::Running, Some(offer)) if left.is_zero() => {
                    return Next::Offer(offer.clone(), false);
                }
                (Phase::Opening | Phase::Running, _) if has_to_compare && left.is_zero() => {
                    return Next::Free;
                }
                _ => {}
            }
            let has_work = has_to_compare || state.phase == Phase::Running && state.slot.is_some();
            state = if has_work && !left.is_zero() {
                let woken = self.changed.wait_timeout(state, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let woken = self.changed.wait(state);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Notes that a call of the anchor begins.
    pub(super) fn asks(&self) {
        self.lock().asked.get_or_insert_with(Instant::now);
    }

    /// Notes that the call has returned.
    pub(super) fn answered(&self) {
        self.lock().asked = None;
    }

    /// Notes that the anchor keeps this checkpoint of an earlier run.
    pub(super) fn kept_before(&self, checkpoint: Checkpoint) {
        let offer = Offer {
            checkpoint: Arc::new(checkpoint),
            next_made: Arc::default(),
        };
        lock(&self.book).keep(&self.name, &offer);
    }

    /// Stores the result of the comparison, and wakes the caller that opens the trail.
    fn answer(&self, outcome: Result<(), Refuted>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.compared.get_or_insert(outcome);
        self.changed.notify_all();
        state
    }

    /// Notes that the anchor's memory and the trail agree.
    pub(super) fn compared(&self) {
        drop(self.answer(Ok(())));
    }

    /// Notes that they do not agree. If opening has not waited, or has ended, the result is
    /// recorded.
    pub(super) fn refuted(&self, refuted: Refuted) {
        let mut state = self.answer(Err(refuted.clone()));
        while state.phase == Phase::Opening {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.phase == Phase::Stopped {
            return;
        }
        let (checkpoint, contradiction) = match refuted {
            Refuted::Contradicts {
                checkpoint,
                contradiction,
            } => (checkpoint, contradiction.name()),
            Refuted::Unverifiable(checkpoint) => (checkpoint, "unverifiable"),
            Refuted::OtherOrigin(origin) => {
                let cause = format!("it knows the trail {origin} of this worker, and not this one");
                return self.fail_for_good(state, cause.into());
            }
        };
        let contradicted = Anchoring::Contradicted {
            anchor: Arc::clone(&self.name),
            contradiction,
            size: checkpoint.size(),
            root: encode_base64(&checkpoint.root()).into(),
        };
        state.reports.push(contradicted.clone());
        drop(state);
        tell(Some(contradicted));
    }

    /// Stores an event about the anchor, to be recorded.
    pub(super) fn report(&self, event: Anchoring) {
        let event = self.lock().report(event);
        tell(Some(event));
    }

    /// Notes a failure: the anchor could not be asked what it remembers, gave an invalid answer, or
    /// does not keep the checkpoint in the slot.
    pub(super) fn failed(&self, cause: Text, is_last: bool) {
        let mut state = self.answer(Ok(()));
        if is_last {
            drop(state);
            let anchor = Arc::clone(&self.name);
            foreign::log(move || {
                tracing::error!(target: crate::LOG, %anchor, %cause, "the trail's last checkpoint is not anchored");
            });
        } else {
            let failed = self.fail(&mut state, cause);
            drop(state);
            tell(failed);
        }
    }

    /// Notes that the anchor holds a checkpoint that neither fits nor is signed. It gets nothing as
    /// long as it does.
    pub(super) fn doubted(&self, cause: Text, is_last: bool) {
        let mut state = self.answer(Ok(()));
        let is_known = std::mem::replace(&mut state.doubted, true);
        if is_last || is_known {
            drop(state);
            return self.failed(cause, is_last);
        }
        self.fail_for_good(state, cause);
    }

    /// Notes that the anchor must not be called again.
    pub(super) fn failed_for_good(&self, cause: Text) {
        self.fail_for_good(self.answer(Ok(())), cause);
    }

    /// Notes that the anchor keeps a checkpoint.
    pub(super) fn kept(&self, offer: &Offer) {
        let mut state = self.lock();
        let size = offer.checkpoint.size();
        state
            .slot
            .take_if(|newest| newest.checkpoint.size() <= size);
        state.doubted = false;
        let recovered = std::mem::take(&mut state.failing).then(|| {
            state.report(Anchoring::Recovered {
                anchor: Arc::clone(&self.name),
                size,
            })
        });
        drop(state);
        tell(recovered);
        if !self.is_log {
            lock(&self.book).keep(&self.name, offer);
        }
    }

    /// Notes that the thread ends.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.asked = None;
        state.ended = true;
        state.compared.get_or_insert(Ok(()));
        self.changed.notify_all();
    }
}

/// Locks. No code panics while it holds one of these locks, so a poisoned lock protects consistent
/// data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
