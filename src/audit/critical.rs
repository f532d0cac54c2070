//! Records that must be durable: queued at once, and then waited for.
//!
//! Whoever has many queues all of them first, and they wait no longer than one. This module does not know
//! what is recorded.

use super::event::{Event, Mark};
use super::queue::Lane;
use super::sync::Instant;
use super::{NotDurable, Receipt, Recorder, unnumbered};
use crate::{foreign, process};

/// A record that must be durable, and was queued if it could be.
#[derive(Debug)]
pub(crate) struct Submitted {
    mark: Mark,
    queued: Result<(), NotDurable>,
    since: Instant,
}

impl Recorder {
    /// Records, and returns once the record is durable or proven not to be.
    pub(crate) fn commit(&self, event: Event) -> (Mark, Result<Receipt, NotDurable>) {
        self.answer(self.submit(event))
    }

    /// Queues a record that must be durable, without waiting.
    pub(crate) fn submit(&self, event: Event) -> Submitted {
        let (mark, queued) = match process::check() {
            Ok(()) => self.0.push(event, Lane::Critical),
            Err(forked) => (unnumbered(), Err(forked.into())),
        };
        let since = Instant::now();
        Submitted {
            mark,
            queued,
            since,
        }
    }

    /// Returns once the record is durable or proven not to be, at the latest when the critical deadline has
    /// passed since it was queued.
    pub(crate) fn answer(&self, submitted: Submitted) -> (Mark, Result<Receipt, NotDurable>) {
        let Submitted { mark, since, .. } = submitted;
        let outcome = match (submitted.queued, mark.seq) {
            (Err(NotDurable::Forked(forked)), _) => return (mark, Err(forked.into())),
            (Ok(()), Some(seq)) if foreign::is_inside() => {
                return (mark, Err(NotDurable::NotAwaited { seq }));
            }
            (Ok(()), Some(seq)) => {
                let left = self.0.settings.critical_deadline;
                let left = left.saturating_sub(since.elapsed());
                let durable = self.0.queue.wait_durable(seq, left);
                durable.map_err(|error| match error {
                    NotDurable::DeadlineExceeded { seq, .. } => NotDurable::DeadlineExceeded {
                        seq,
                        waited: since.elapsed(),
                    },
                    other => other,
                })
            }
            (Ok(()), None) => Err(NotDurable::Closed),
            (Err(error), _) => Err(error),
        };
        if let Err(error) = &outcome {
            self.0.queue.count_critical_failure();
            // The writer may hang, or be gone.
            self.0.publish_counters();
            let error = error.clone();
            foreign::log(move || tracing::error!(%error, "a record that must be durable is not"));
        }
        (mark, outcome)
    }
}
