//! The runs of a trail: which of them were closed, which were killed, and below which bound each gave
//! its numbers.
//!
//! Fed by the account of the numbers, with acknowledged records alone. What segments that were not
//! read would have said is not known, and nothing follows from it. This module knows nothing of gaps.

use serde::Serialize;

use super::super::segment::{Fact, Header, Opening, Record, Recovered, Stamp};

/// How the runs ended whose end is known. The last run of a trail counts if it was closed: one that
/// goes on or died is no killed run before the next run has said so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Runs {
    /// Their last acknowledged record is `TrailClosed`.
    pub closed: u64,
    /// Their process ended without closing, and the next run recorded `TailRecovered`.
    pub killed: u64,
}

/// A run that was killed, and what of it is missing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KilledRun {
    /// The segment that it left.
    pub segment: u64,
    /// The version of the format that it was written in; none if its segments were not checked.
    pub format: Option<u64>,
    /// The number of the last record that is acknowledged; none if its segments were not checked.
    pub last_seq: Option<u64>,
    /// The time of that record.
    pub last_time: Option<String>,
    /// The number of the `TrailOpened` of the run behind it.
    pub next_seq: u64,
    /// The time of that record: the process ended in between.
    pub next_time: String,
    /// At most so many records had a number and were never acknowledged: the numbers that the run may
    /// have given. None if its segments were not checked.
    pub records_at_most: Option<u64>,
}

/// What a trail lacks because of a killed run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lacks {
    /// Nothing that is known.
    Nothing,
    /// Format 1 did not bound its numbers: only those are known to be missing that later ones show.
    Records,
    /// What it had queued.
    Run,
}

impl KilledRun {
    pub(super) fn lacks(&self) -> Lacks {
        match (self.format, self.records_at_most) {
            (None, _) | (Some(1), None | Some(0)) => Lacks::Nothing,
            (Some(1), Some(_)) => Lacks::Records,
            (Some(_), _) => Lacks::Run,
        }
    }
}

/// What is known of the run before, when the next one opens the trail.
#[derive(Clone, Debug)]
struct Left {
    /// None if the records before were not all read.
    end: Option<End>,
    next_seq: u64,
    next_time: Stamp,
    next_format: u64,
}

/// How far a run has come, and the numbers it may have given.
#[derive(Clone, Copy, Debug)]
struct End {
    last_seq: u64,
    last_time: Stamp,
    closed: bool,
    format: u64,
    /// None in format 1.
    below: Option<u64>,
}

/// The account of all runs so far.
#[derive(Clone, Debug, Default)]
pub(super) struct RunBook {
    pub(super) runs: Runs,
    format: u64,
    /// Every number of the run is below this; none in format 1, and while it is not known.
    below: Option<u64>,
    /// The last record; none while it is not known.
    end: Option<End>,
    left: Option<Left>,
    kills: Vec<KilledRun>,
}

impl RunBook {
    /// Takes the killed runs since the last call.
    pub(super) fn take_kills(&mut self) -> Vec<KilledRun> {
        std::mem::take(&mut self.kills)
    }

    /// Some records before the next one were not read: a bound may have been raised there.
    pub(super) fn skip(&mut self) {
        self.below = None;
        self.end = None;
    }

    /// Every record, after what it says was taken.
    pub(super) fn record(&mut self, record: &Record) {
        let before = self.end.map_or(0, |end| end.last_seq);
        self.end = Some(End {
            last_seq: before.max(record.seq),
            last_time: record.time,
            closed: matches!(record.fact, Fact::Closed(_)),
            format: self.format,
            below: self.below,
        });
    }

    /// A segment begins.
    pub(super) fn header(&mut self, seq: u64, time: Stamp, header: &Header) -> Result<(), String> {
        let opens = header.event == Opening::TrailOpened;
        let (before, end) = (self.below, self.end);
        self.format = header.format;
        self.below = header.bound();
        if opens {
            self.runs.closed = self
                .runs
                .closed
                .saturating_add(u64::from(end.is_some_and(|end| end.closed)));
            self.left = Some(Left {
                end,
                next_seq: seq,
                next_time: time,
                next_format: header.format,
            });
        }
        if header.format < 2 {
            return Ok(());
        }
        let Some(bound) = self.below else {
            return Err("the header does not state the bound of its numbers".to_owned());
        };
        if let Some(before) = before.filter(|before| !opens && bound < *before) {
            self.below = Some(before);
            return Err(format!(
                "the header bounds its numbers by {bound}, but {before} was stated before"
            ));
        }
        let given = end.filter(|end| opens && !end.closed);
        match given.and_then(|end| end.below) {
            Some(below) if seq < below => Err(format!(
                "the run begins with number {seq}, but the killed run before may have given those below {below}"
            )),
            _ => Ok(()),
        }
    }

    /// A number is given to a record.
    pub(super) fn number(&self, seq: u64) -> Result<(), String> {
        match self.below {
            Some(below) if seq >= below => Err(format!(
                "number {seq} was given before the bound {below} was raised"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn reserved(&mut self, numbers_below: u64) {
        self.below = self.below.map(|below| below.max(numbers_below));
    }

    /// The run says what the one before has left; `open` numbers of that one were missing until now.
    pub(super) fn recovered(&mut self, tail: Recovered, open: u64) -> Result<(), String> {
        let Some(left) = self.left.take() else {
            return Ok(());
        };
        if !left.end.is_some_and(|end| end.closed) {
            self.runs.killed = self.runs.killed.saturating_add(1);
            self.kills.push(KilledRun {
                segment: tail.segment,
                format: left.end.map(|end| end.format),
                last_seq: left.end.map(|end| end.last_seq),
                last_time: left.end.map(|end| end.last_time.to_string()),
                next_seq: left.next_seq,
                next_time: left.next_time.to_string(),
                records_at_most: left.end.map(|_| open),
            });
        }
        let highest = left.end.and_then(|end| {
            let below = end.below.filter(|_| left.next_format > 1)?;
            Some(if end.closed {
                end.last_seq
            } else {
                below.saturating_sub(1)
            })
        });
        match highest {
            Some(highest) if highest != tail.highest_seq => Err(format!(
                "the run before gave numbers up to {highest} at most, not {}",
                tail.highest_seq
            )),
            _ => Ok(()),
        }
    }
}
