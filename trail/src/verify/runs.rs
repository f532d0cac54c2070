//! The runs of a trail: which of them were closed, which were killed, and the bound below which
//! each gave its numbers.
//!
//! The account of the numbers feeds it with acknowledged records only. Nothing is concluded from
//! segments that were not read. This module knows nothing of gaps.

use serde::Serialize;

use super::super::segment::{Fact, Header, Opening, Record, Recovered, Stamp};

/// How the runs ended whose end is known. The last run of a trail counts only if it was closed. A
/// run that goes on, or died, counts as killed only when the next run has recorded it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Runs {
    /// Runs whose last acknowledged record is `TrailClosed`.
    pub closed: u64,
    /// Runs whose process ended without closing, so that the next run recorded `TailRecovered`.
    pub killed: u64,
}

/// A killed run, and how much of it is missing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KilledRun {
    /// The last segment of the run.
    pub segment: u64,
    /// The version of the run's format. `None` if its segments were not checked.
    pub format: Option<u64>,
    /// The number of the last acknowledged record. `None` if its segments were not checked.
    pub last_seq: Option<u64>,
    /// The time of that record.
    pub last_time: Option<String>,
    /// The number of the next run's `TrailOpened`.
    pub next_seq: u64,
    /// The time of that record. The process ended between the two times.
    pub next_time: String,
    /// The most records that may have had a number and were never acknowledged, by the numbers that
    /// the run may have given. `None` if its segments were not checked.
    pub records_at_most: Option<u64>,
}

/// What a trail lacks because of a killed run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lacks {
    /// Nothing that is known.
    Nothing,
    /// Records. Format 1 did not bound its numbers, so only numbers that later ones show to be
    /// missing are known.
    Records,
    /// The records that the run had queued.
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

/// What is known of the previous run when the next one opens the trail.
#[derive(Clone, Debug)]
struct Left {
    /// `None` if not all records before were read.
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
    /// `None` in format 1.
    below: Option<u64>,
}

/// The account of all runs so far.
#[derive(Clone, Debug, Default)]
pub(super) struct RunBook {
    pub(super) runs: Runs,
    format: u64,
    /// Every number of the run is below this. `None` in format 1, and while it is not known.
    below: Option<u64>,
    /// The last record. `None` while it is not known.
    end: Option<End>,
    left: Option<Left>,
    kills: Vec<KilledRun>,
}

impl RunBook {
    /// Takes the killed runs since the last call.
    pub(super) fn take_kills(&mut self) -> Vec<KilledRun> {
        std::mem::take(&mut self.kills)
    }

    /// Notes that some records before the next one were not read: a bound may have been raised
    /// there.
    pub(super) fn skip(&mut self) {
        self.below = None;
        self.end = None;
    }

    /// Adds a record, after its own statements were taken into account.
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

    /// Notes that a segment begins.
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

    /// Notes that a record has this number.
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

    /// Takes the run's statement about the end of the previous one. `open` is how many numbers of
    /// the previous run were missing until now.
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
