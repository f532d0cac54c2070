//! An event with its number and times, and its form as one line of JSON.
//!
//! The common fields come first, in the order of the format, then the event's own. This module
//! knows nothing of queues, files or checkpoints.

use serde::Serialize;

use super::clock::Time;
use super::event::{By, Event, Outcome, Seq, Severity, Text};
use super::segment::MAX_LINE_BYTES;
use crate::application::Application;
use crate::id::WorkerId;

/// An event with its number and times: one leaf of the trail.
#[derive(Debug)]
pub(crate) struct Record<A: Application> {
    pub(crate) seq: Seq,
    pub(crate) time: Time,
    pub(crate) mono_us: u64,
    pub(crate) event: Event<A>,
}

/// A record as JSON, with its common fields in the order of the format.
#[derive(Serialize)]
struct Line<'a, F> {
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
    fields: &'a F,
    /// Where the line starts in its segment. A trail's last record states it, so that the deletion
    /// of a checkpoint before it is noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// Replaces the fields of an entry that cannot be written.
#[derive(Serialize)]
struct Unwritable {
    unwritable: Text,
}

impl<A: Application> Record<A> {
    /// Appends the line that starts at `offset` of its segment, without its newline, to `out`. The
    /// reason replaces the fields of an entry that cannot be written.
    pub(crate) fn write_to(
        &self,
        boot: &str,
        worker: &WorkerId,
        offset: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let start = out.len();
        let written = self.write_line(boot, worker, offset, &self.event, out);
        let length = out.len().saturating_sub(start);
        let unwritable = match (&self.event, &written) {
            (Event::Entry(_), Err(error)) => error.to_string(),
            (Event::Entry(_), Ok(())) if length > MAX_LINE_BYTES => {
                format!(
                    "its line has {length} bytes, and no line may have more than {MAX_LINE_BYTES}"
                )
            }
            _ => return written,
        };
        // An application that breaks its contract must not keep all later records from the disk.
        out.truncate(start);
        let fields = Unwritable {
            unwritable: unwritable.into(),
        };
        self.write_line(boot, worker, offset, &fields, out)
    }

    fn write_line<F: Serialize>(
        &self,
        boot: &str,
        worker: &WorkerId,
        offset: u64,
        fields: &F,
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
                fields,
                offset: matches!(self.event, Event::TrailClosed { .. }).then_some(offset),
            },
        )
    }

    /// Returns whether this record came from the trail's user.
    pub(crate) fn is_from_outside(&self) -> bool {
        matches!(
            self.event,
            Event::Entry(_) | Event::Note { .. } | Event::PolicyViolation { .. }
        )
    }

    /// Returns the first number that this record accounts for as lost.
    pub(crate) fn first_lost(&self) -> Option<Seq> {
        match &self.event {
            Event::RecordsLost { lost } => Some(lost.first),
            _ => None,
        }
    }

    /// Returns the bound of numbers that this record states.
    pub(crate) fn numbers_below(&self) -> Option<u64> {
        match &self.event {
            Event::NumbersReserved { numbers_below } => Some(*numbers_below),
            Event::SegmentOpened { header } | Event::TrailOpened { header, .. } => {
                Some(header.numbers_below)
            }
            _ => None,
        }
    }

    /// Returns whether an anchor should get this record's checkpoint at once.
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
