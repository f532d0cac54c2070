//! The content of records: the trail's own events with their fields, and the entries of its
//! application.
//!
//! This module knows nothing of numbers, queues, files or checkpoints. The trail's own events are
//! private to the crate. Not refused: an application's entry that takes the name of one.
//!
//! Values are shared (`Arc<str>`), and rare or large ones are boxed. So making and moving an
//! ordinary event allocates nothing.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub(crate) use self::fields::{
    By, Configuration, FORMAT, Header, LossCause, Lost, Previous, Violation, VoidedCheckpoint,
};
pub use self::text::Text;
use crate::application::{Application, Entry};
use crate::clock::Time;

mod fields;
mod text;

/// The most bytes that the text of a [`note`](crate::Trail::note) or one field of a
/// [`policy_violation`](crate::Trail::policy_violation) may have.
pub const MAX_TEXT_BYTES: usize = 1024;

/// The number of a record in its trail, from 0, given when the record is made.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seq(pub(crate) u64);

impl Seq {
    /// Makes the number `value`. It proves nothing: a [`Receipt`](crate::Receipt) does.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Returns the number.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A point in the trail: the number of a record and its time. There is no number if the trail was
/// already closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The record's number.
    pub seq: Option<Seq>,
    /// The record's time.
    pub time: Time,
}

impl Mark {
    /// Makes a mark for an attempt that got no number.
    pub fn unnumbered(time: Time) -> Self {
        Self { seq: None, time }
    }
}

/// How severe a record's content is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// Normal operation.
    Info,
    /// A failure despite which the process goes on.
    Warn,
    /// A failure that a person must examine. It has reserved room in the queue.
    Critical,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Success,
    Failure,
}

/// The names of the trail's own events, sorted.
pub const OWN_EVENTS: &[&str] = &[
    "AnchorContradicted",
    "AnchorFailed",
    "AnchorPartlyCompared",
    "AnchorRecovered",
    "AuditDegraded",
    "ClockStepped",
    "KeyChanged",
    "Note",
    "NumbersReserved",
    "PolicyViolation",
    "RecordsLost",
    "SegmentOpened",
    "SegmentPoisoned",
    "TailRecovered",
    "TrailClosed",
    "TrailOpened",
];

/// What the trail records about an anchor.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Anchoring {
    Contradicted {
        anchor: Arc<str>,
        /// `different` or `shorter` describes the trail. `unverifiable`: the checkpoint is larger
        /// than the trail.
        contradiction: &'static str,
        /// The size of the anchor's checkpoint. This trail's key has signed it, unless it is
        /// unverifiable.
        size: u64,
        root: Arc<str>,
    },
    Failed {
        anchor: Arc<str>,
        cause: Text,
        /// The size of the checkpoint that the anchor does not keep.
        size: u64,
    },
    /// The comparison with an anchor's memory was incomplete.
    PartlyCompared {
        anchor: Arc<str>,
        /// `newest_only`, `origins_unknown` or `unverifiable_ignored`.
        comparison: &'static str,
    },
    Recovered {
        anchor: Arc<str>,
        size: u64,
    },
}

impl Anchoring {
    fn name(&self) -> &'static str {
        match self {
            Self::Contradicted { .. } => "AnchorContradicted",
            Self::Failed { .. } => "AnchorFailed",
            Self::PartlyCompared { .. } => "AnchorPartlyCompared",
            Self::Recovered { .. } => "AnchorRecovered",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Self::Contradicted { .. } => Severity::Critical,
            Self::Failed { .. } | Self::PartlyCompared { .. } => Severity::Warn,
            Self::Recovered { .. } => Severity::Info,
        }
    }
}

/// The content of a record.
#[derive(Debug, Serialize)]
#[serde(untagged, bound = "")]
pub(crate) enum Event<A: Application> {
    /// An event of an anchor.
    Anchor(Anchoring),
    AuditDegraded {
        /// False when the degradation has ended.
        degraded: bool,
        window_s: u64,
        attempts: u64,
        failures: u64,
    },
    ClockStepped {
        step_ns: i64,
    },
    /// An entry of the application.
    Entry(A::Entry),
    /// The last record under a trail's old key. The following records are signed with another one.
    KeyChanged {
        previous_key: Arc<str>,
        key: Arc<str>,
    },
    Note {
        text: Text,
    },
    /// No number at or above this bound is given before a later record raises the bound.
    NumbersReserved {
        numbers_below: u64,
    },
    PolicyViolation {
        #[serde(flatten)]
        violation: Box<Violation>,
    },
    RecordsLost {
        #[serde(flatten)]
        lost: Lost,
    },
    SegmentOpened {
        #[serde(flatten)]
        header: Box<Header>,
    },
    SegmentPoisoned {
        segment: u64,
        operation: &'static str,
        cause: Text,
    },
    TailRecovered {
        segment: u64,
        void_from: u64,
        void_bytes: u64,
        void_records: u64,
        highest_seq: Seq,
    },
    TrailClosed {
        #[serde(flatten)]
        closing: A::Closing,
    },
    TrailOpened {
        #[serde(flatten)]
        header: Box<Header>,
        #[serde(flatten)]
        opening: Box<A::Opening>,
        #[serde(flatten)]
        configuration: Box<Configuration>,
    },
}

impl<A: Application> Event<A> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Anchor(anchoring) => anchoring.name(),
            Self::AuditDegraded { .. } => "AuditDegraded",
            Self::ClockStepped { .. } => "ClockStepped",
            Self::Entry(entry) => entry.name(),
            Self::KeyChanged { .. } => "KeyChanged",
            Self::Note { .. } => "Note",
            Self::NumbersReserved { .. } => "NumbersReserved",
            Self::PolicyViolation { .. } => "PolicyViolation",
            Self::RecordsLost { .. } => "RecordsLost",
            Self::SegmentOpened { .. } => "SegmentOpened",
            Self::SegmentPoisoned { .. } => "SegmentPoisoned",
            Self::TailRecovered { .. } => "TailRecovered",
            Self::TrailClosed { .. } => "TrailClosed",
            Self::TrailOpened { .. } => "TrailOpened",
        }
    }

    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::Anchor(anchoring) => anchoring.severity(),
            Self::Entry(entry) => entry.severity(),
            Self::AuditDegraded { degraded: true, .. }
            | Self::PolicyViolation { .. }
            | Self::SegmentPoisoned { .. }
            | Self::TailRecovered { .. } => Severity::Critical,
            Self::ClockStepped { .. } | Self::RecordsLost { .. } => Severity::Warn,
            Self::AuditDegraded {
                degraded: false, ..
            }
            | Self::KeyChanged { .. }
            | Self::Note { .. }
            | Self::NumbersReserved { .. }
            | Self::SegmentOpened { .. }
            | Self::TrailClosed { .. }
            | Self::TrailOpened { .. } => Severity::Info,
        }
    }

    /// Returns who makes such a record.
    pub(crate) fn by(&self) -> By {
        match self {
            Self::Note { .. } | Self::PolicyViolation { .. } => By::Caller,
            _ => By::Library,
        }
    }

    /// Returns the outcome: everything above `INFO` is a failure.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.severity() {
            Severity::Info => Outcome::Success,
            Severity::Warn | Severity::Critical => Outcome::Failure,
        }
    }
}
