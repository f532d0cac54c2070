//! A summary of the acknowledged records for the reader: the times between which they lie, and the
//! number of incidents.
//!
//! The caller clones it at every matching checkpoint, as it does the account of numbers, so that
//! unacknowledged records can be dropped. It does not check whether the times are true.

use super::super::segment::{Fact, Record, Stamp};
use super::report::Report;

/// The account so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    /// The earliest and the latest time. A clock can be set back, so these need not be the times of
    /// the first and the last record.
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
