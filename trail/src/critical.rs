//! Critical records: queued at once, then waited for until durable.
//!
//! A caller with many critical records queues all of them first; they then wait no longer than one.
//! This module does not know what is recorded.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, Mark};
use super::queue::Lane;
use super::threads::Instant;
use super::{NotDurable, Receipt, Recorder, Shared, not_awaited, unnumbered};
use crate::application::Application;
use crate::{foreign, process};

/// A critical record that was queued, or refused. Its answer comes from the trail that it was submitted to,
/// whichever recorder is asked.
#[derive(Debug)]
#[must_use = "a critical record is not known to be durable before its answer"]
pub struct Submitted<A: Application> {
    shared: Arc<Shared<A>>,
    mark: Mark,
    queued: Result<(), NotDurable>,
    since: Instant,
}

impl<A: Application> Recorder<A> {
    /// Records an entry, and waits until its record is durable, at most the critical deadline.
    ///
    /// # Errors
    ///
    /// [`NotDurable`] if the write failed or the deadline has passed. The record may become durable
    /// later: see [`NotDurable::ask_again`].
    pub fn commit(&self, entry: impl Into<A::Entry>) -> (Mark, Result<Receipt, NotDurable>) {
        self.answer(self.submit(entry))
    }

    /// Queues a critical record without waiting.
    pub fn submit(&self, entry: impl Into<A::Entry>) -> Submitted<A> {
        self.submit_event(Event::Entry(entry.into()))
    }

    pub(crate) fn submit_event(&self, event: Event<A>) -> Submitted<A> {
        let (mark, queued) = match process::check() {
            Ok(()) => self.shared.push(event, Lane::Critical),
            Err(forked) => (unnumbered(), Err(forked.into())),
        };
        let since = Instant::now();
        Submitted {
            shared: Arc::clone(&self.shared),
            mark,
            queued,
            since,
        }
    }

    /// Waits for the answer, as [`commit`](Self::commit) does. Returns at the latest when the
    /// critical deadline has passed since the record was queued.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    pub fn answer(&self, submitted: Submitted<A>) -> (Mark, Result<Receipt, NotDurable>) {
        let limit = submitted.shared.settings.critical_deadline;
        Self::answer_within(submitted, limit)
    }

    /// Returns whether [`answer`](Self::answer) would return at once. Does not wait.
    pub fn has_answer(&self, submitted: &Submitted<A>) -> bool {
        let (Ok(()), Some(seq)) = (&submitted.queued, submitted.mark.seq) else {
            return true;
        };
        let shared = &submitted.shared;
        submitted.since.elapsed() >= shared.settings.critical_deadline
            || shared.queue.has_answer(seq)
    }

    /// Returns the answer that [`answer`](Self::answer) would give if the deadline had passed. Does
    /// not wait.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    pub fn answer_now(&self, submitted: Submitted<A>) -> (Mark, Result<Receipt, NotDurable>) {
        Self::answer_within(submitted, Duration::ZERO)
    }

    fn answer_within(
        submitted: Submitted<A>,
        limit: Duration,
    ) -> (Mark, Result<Receipt, NotDurable>) {
        let Submitted {
            shared,
            mark,
            queued,
            since,
        } = submitted;
        let outcome = match (queued, mark.seq) {
            (Err(NotDurable::Forked(forked)), _) => return (mark, Err(forked.into())),
            (Ok(()), Some(seq)) if foreign::is_inside() => {
                return (mark, Err(not_awaited(seq).of_queued(shared.clone())));
            }
            (Ok(()), Some(seq)) => {
                let left = limit.saturating_sub(since.elapsed());
                let durable = shared.queue.wait_durable(seq, left);
                durable.map_err(|mut error| {
                    if let NotDurable::DeadlineExceeded { waited, .. } = &mut error {
                        *waited = since.elapsed();
                    }
                    error.of_queued(shared.clone())
                })
            }
            (Ok(()), None) => Err(NotDurable::Closed),
            (Err(error), _) => Err(error),
        };
        if let Err(error) = &outcome {
            shared.queue.count_critical_failure();
            // The writer may hang or have ended.
            shared.publish_counters();
            let error = error.clone();
            foreign::log(
                move || tracing::error!(target: crate::LOG, %error, "a record that must be durable is not yet"),
            );
        }
        (mark, outcome)
    }
}
