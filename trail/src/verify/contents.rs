//! What the acknowledged records say of themselves that a reader wants to know at once: between which
//! times they lie, and how many incidents are among them.
//!
//! Cloned by the caller at every matching checkpoint, as the account of numbers is, so that what was
//! never acknowledged can be forgotten. It does not ask whether the times are true.

use super::super::segment::{Fact, Record, Stamp};
use super::report::Report;

/// The account so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    /// The earliest and the latest time. A clock can be set back, so these need not be those of the
    /// first record and the last.
    span: Option<(Stamp, Stamp)>,
    incidents: u64,
}

impl Contents {
    pub(super) fn record(&mut self, record: &Record) {
        let time = record.time;
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
        if matches!(record.fact, Fact::Incident) {
            self.incidents = self.incidents.saturating_add(1);
        }
    }

    pub(super) fn report(&self, report: &mut Report) {
        report.incidents = self.incidents;
        report.first_time = self.span.map(|(first, _)| first.to_string());
        report.last_time = self.span.map(|(_, last)| last.to_string());
    }
}
