//! The shape of a run: opened, closed, and then no record until the next run is opened.
//!
//! It gets records in the order of the file. The caller clones it at every matching checkpoint,
//! like the account of numbers. Format 1 never defined the shape of a run: its writer wrote
//! `TrailClosed` twice if a segment was given up over it. So only runs of format 2 are checked.
//! This module knows which record may follow which. It knows nothing of numbers, hashes or bytes.

use super::super::event::FORMAT;
use super::super::segment::{Fact, Header, Opening, Place, Record};

/// The state of the trail after the records so far.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    state: State,
    /// The format of the run of the last record. 0 if it is not known.
    format: u64,
    /// The first record since the last call that stands where it must not.
    complaint: Option<(Place, &'static str)>,
}

/// The kind of the last record, as far as it decides what may follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// No record yet: the trail begins here.
    Begin,
    /// `TrailClosed`.
    Closed,
    /// Any other record of a run.
    Open,
    /// `TrailOpened`.
    Opened { behind_unclosed: bool },
    /// The record was not read, or is damaged.
    Unknown,
}

impl Shape {
    /// Starts at the beginning of a trail.
    pub(super) fn new() -> Self {
        Self {
            state: State::Begin,
            format: 0,
            complaint: None,
        }
    }

    /// Notes that some records before the next one were not read or not proven.
    pub(super) fn skip(&mut self) {
        self.state = State::Unknown;
        self.format = 0;
    }

    /// Takes the complaint since the last call: the place and the reason.
    pub(super) fn take_complaint(&mut self) -> Option<(Place, &'static str)> {
        self.complaint.take()
    }

    /// Adds a record.
    pub(super) fn record(&mut self, place: Place, record: &Record) {
        let objection = match &record.fact {
            Fact::Header(header) => self.header(header),
            fact => self.within(fact, place.line),
        };
        if let Some(words) = objection.filter(|_| self.format >= FORMAT) {
            self.complaint.get_or_insert((place, words));
        }
    }

    /// Notes that a segment begins. A fault here counts if either side is of format 2.
    fn header(&mut self, header: &Header) -> Option<&'static str> {
        let before = (self.state, self.format);
        if header.event == Opening::TrailOpened {
            // This run states how it found the previous one, whatever format that has.
            let behind_unclosed = matches!(before.0, State::Open | State::Opened { .. });
            self.state = State::Opened { behind_unclosed };
            self.format = header.format;
            return None;
        }
        self.state = State::Open;
        self.format = header.format.max(before.1);
        match before.0 {
            State::Begin => Some("a trail begins with `TrailOpened`"),
            State::Closed => Some("`SegmentOpened` stands behind `TrailClosed`"),
            State::Opened {
                behind_unclosed: true,
            } => Some(NOT_RECOVERED),
            State::Open | State::Opened { .. } if header.format != before.1 => {
                Some("`SegmentOpened` is of another format than its run")
            }
            State::Open | State::Opened { .. } | State::Unknown => None,
        }
    }

    /// Checks a record inside a segment, on this line.
    fn within(&mut self, fact: &Fact, line: u64) -> Option<&'static str> {
        let before = self.state;
        self.state = match fact {
            Fact::Closed(_) => State::Closed,
            _ => State::Open,
        };
        let is_recovery = matches!(fact, Fact::Recovered(_));
        match before {
            State::Closed => Some("a record stands behind `TrailClosed`"),
            State::Opened { .. } if is_recovery && line == 2 => None,
            _ if is_recovery => Some("`TailRecovered` is not the second line behind `TrailOpened`"),
            State::Opened {
                behind_unclosed: true,
            } => Some(NOT_RECOVERED),
            _ => None,
        }
    }
}

const NOT_RECOVERED: &str =
    "the run before was not closed, and no `TailRecovered` stands behind `TrailOpened`";
