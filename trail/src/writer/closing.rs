//! The writer's last step: writes the remaining records, then `TrailClosed`, or reports why it
//! could not.

use std::sync::Arc;

use super::Writer;
use crate::application::Application;
use crate::event::Event;
use crate::foreign;
use crate::queue::WriteFailure;
use crate::record::Record;
use crate::storage::Storage;
use crate::threads::{self, Instant};
use crate::{CloseError, Receipt, Shared};

/// The most segments that are given up while the trail is closed. A disk that fails more often is
/// not worth further attempts.
const MOST_GIVEN_UP: u64 = 16;

impl<A: Application, S: Storage> Writer<A, S> {
    /// Writes the remaining records, then `TrailClosed`. Retries until the deadline, with rests
    /// between the attempts. `TrailClosed` is the last record: if a segment was given up over it,
    /// the record is dropped and made again.
    pub(crate) fn close(mut self, deadline: Instant) -> Result<Receipt, CloseError> {
        let (failures, given_up) = (self.backoff.total(), self.given_up);
        let mut tried = false;
        loop {
            self.drain(deadline);
            let written = self.pending.is_empty();
            if let Some(receipt) = self.closed.take_if(|_| written) {
                self.shared.publish_counters();
                return Ok(receipt);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let is_late = left.is_zero() && (tried || !written);
            let is_hopeless = self.given_up.saturating_sub(given_up) >= MOST_GIVEN_UP;
            if self.displaced || is_late || is_hopeless {
                return Err(self.abandon(self.backoff.total().saturating_sub(failures)));
            }
            if written && !tried && !self.is_sound(deadline) {
                continue;
            }
            if written {
                tried = true;
                self.own.push(self.shared.closing_event());
            }
            threads::sleep(self.backoff.take(left));
        }
    }

    /// Counts the remaining records as lost. `failures` is the number of failures since closing
    /// began.
    pub(super) fn abandon(&self, failures: u64) -> CloseError {
        let outside = self
            .pending
            .iter()
            .filter(|record| record.is_from_outside());
        let records = u64::try_from(outside.count()).unwrap_or(u64::MAX);
        if self.displaced {
            self.shared.queue.displace();
        }
        let records = self.shared.queue.stop(records).unwrap_or(records);
        let failure = self.failure.clone().unwrap_or_else(|| WriteFailure {
            operation: "close",
            cause: "the disk was too slow".into(),
        });
        let WriteFailure { operation, cause } = failure.clone();
        foreign::log(move || {
            tracing::error!(target: crate::LOG,
                records,
                operation,
                cause = &*cause,
                failures,
                "the audit trail's writer has ended and the trail's end is not on record; these records are lost"
            );
        });
        self.shared.publish_counters();
        if self.displaced {
            return CloseError::Displaced { records };
        }
        CloseError::NotWritten {
            records,
            operation: failure.operation,
            cause: failure.cause.into(),
            failures,
        }
    }
}

/// Returns whether this is the record that a trail ends with.
pub(super) fn is_closing<A: Application>(record: &Record<A>) -> bool {
    matches!(record.event, Event::TrailClosed { .. })
}

/// Wakes the waiting callers however the thread ends.
pub(crate) struct StopOnDrop<A: Application>(pub(crate) Arc<Shared<A>>);

impl<A: Application> Drop for StopOnDrop<A> {
    fn drop(&mut self) {
        let records = self.0.queue.stop(self.0.queue.in_flight());
        if records.is_some_and(|records| records > 0) {
            foreign::log(move || {
                tracing::error!(target: crate::LOG,
                    records,
                    "the audit trail's writer has stopped; these records are lost"
                );
            });
            self.0.publish_counters();
        }
        // By now, all callers that waited for the writer have an answer.
        self.0.application.settled();
    }
}
