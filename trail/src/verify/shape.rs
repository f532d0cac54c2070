//! The shape of a run: opened, closed, and then nothing until the next one is opened.
//!
//! Fed with records in the order of the file, and cloned by the caller at every matching checkpoint,
//! like the account of numbers. Format 1 never said what a run looks like: its writer wrote
//! `TrailClosed` twice if a segment was given up over it. So only runs of format 2 are bound. This
//! module knows which record may follow which; it knows nothing of numbers, hashes or bytes.

use super::super::event::FORMAT;
use super::super::segment::{Fact, Header, Opening, Place, Record};

/// Where the records so far leave the trail.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    state: State,
    /// The format of the run that the last record belongs to; 0 if that is not known.
    format: u64,
    /// The first record since the last call that stands where it must not.
    complaint: Option<(Place, &'static str)>,
}

/// What the last record was, as far as that decides what may follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// There was none: the trail begins here.
    Begin,
    /// `TrailClosed`.
    Closed,
    /// Any other one of a run.
    Open,
    /// `TrailOpened`.
    Opened { behind_unclosed: bool },
    /// It was not read, or is damaged.
    Unknown,
}

impl Shape {
    /// At the start of a trail.
    pub(super) fn new() -> Self {
        Self {
            state: State::Begin,
            format: 0,
            complaint: None,
        }
    }

    /// Some records before the next one were not read or not proven.
    pub(super) fn skip(&mut self) {
        self.state = State::Unknown;
        self.format = 0;
    }

    /// Takes the complaint since the last call: where, and what.
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

    /// A segment begins. What is wrong with that binds if either side is of format 2.
    fn header(&mut self, header: &Header) -> Option<&'static str> {
        let before = (self.state, self.format);
        if header.event == Opening::TrailOpened {
            // Whether the run before was of format 2 or not, this one says how it found that.
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

    /// A record inside a segment, on this line.
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
