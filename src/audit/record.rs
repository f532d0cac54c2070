//! An event with its number and times, and how it is written as one line of JSON.
//!
//! The common fields come first, in the order that the format fixes, then the event's own. This
//! module knows nothing of queues, files or checkpoints.

use serde::Serialize;

use super::clock::Time;
use super::event::{By, Event, Outcome, Seq, Severity};
use crate::id::WorkerId;

/// An event with its number and times: one leaf of the trail.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) seq: Seq,
    pub(crate) time: Time,
    pub(crate) mono_us: u64,
    pub(crate) event: Event,
}

/// A record as JSON, its common fields in the order that the format fixes.
#[derive(Serialize)]
struct Line<'a> {
    seq: Seq,
    time: Time,
    mono_us: u64,
    boot: &'a str,
    worker: &'a WorkerId,
    event: &'static str,
    severity: Severity,
    outcome: Outcome,
    by: By,
    #[serde(flatten)]
    fields: &'a Event,
    /// Where the line starts in its segment: said by a trail's last record, so that whoever deletes
    /// a checkpoint before it is noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Record {
    /// Appends the line that starts at `offset` of its segment, without its newline, to `out`.
    pub(crate) fn write_to(
        &self,
        boot: &str,
        worker: &WorkerId,
        offset: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        serde_json::to_writer(
            out,
            &Line {
                seq: self.seq,
                time: self.time,
                mono_us: self.mono_us,
                boot,
                worker,
                event: self.event.name(),
                severity: self.event.severity(),
                outcome: self.event.outcome(),
                by: self.event.by(),
                fields: &self.event,
                offset: matches!(self.event, Event::TrailClosed { .. }).then_some(offset),
            },
        )
    }

    /// Whether somebody outside the trail gave this record.
    pub(crate) fn is_from_outside(&self) -> bool {
        !matches!(
            self.event,
            Event::AnchorContradicted { .. }
                | Event::AnchorFailed { .. }
                | Event::AnchorPartlyCompared { .. }
                | Event::AnchorRecovered { .. }
                | Event::AuditDegraded { .. }
                | Event::ClockStepped { .. }
                | Event::KeyChanged { .. }
                | Event::NumbersReserved { .. }
                | Event::RecordsLost { .. }
                | Event::SegmentOpened { .. }
                | Event::SegmentPoisoned { .. }
                | Event::TailRecovered { .. }
                | Event::TrailClosed { .. }
                | Event::TrailOpened { .. }
        )
    }

    /// The first number that this record accounts for as lost.
    pub(crate) fn first_lost(&self) -> Option<Seq> {
        match &self.event {
            Event::RecordsLost { lost } => Some(lost.first),
            _ => None,
        }
    }

    /// The bound of numbers that this record states.
    pub(crate) fn numbers_below(&self) -> Option<u64> {
        match &self.event {
            Event::NumbersReserved { numbers_below } => Some(*numbers_below),
            Event::SegmentOpened { header } | Event::TrailOpened { header, .. } => {
                Some(header.numbers_below)
            }
            _ => None,
        }
    }

    /// Whether an anchor should learn of this record at once.
    pub(crate) fn is_worth_anchoring(&self) -> bool {
        self.event.severity() == Severity::Critical
            || matches!(
                self.event,
                Event::KeyChanged { .. } | Event::TrailClosed { .. }
            )
    }
}

#[cfg(test)]
mod tests;
