//! The verdict on a report: one of four answers, and the names of what is missing.
//!
//! Every consumer of a check (a command's exit status, a job in CI) asks here, so that one place
//! defines what counts as missing. It knows only the report.

use std::fmt;

use serde::Serialize;

use super::report::{Outcome, Report};
use super::runs::{KilledRun, Lacks};

/// How the reader of a report judges an end that no anchor vouches for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnanchoredEnd {
    /// The end may have been cut off at a checkpoint, and the reader accepts that.
    Accepted,
    /// The end counts as missing.
    Refused,
}

/// What the reader of a report accepts, and what therefore does not count as missing. The report
/// still states it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Accepted {
    end: UnanchoredEnd,
    kills_before: u64,
}

impl Accepted {
    /// Also accepts killed runs if the next run's `TrailOpened` has a number below `seq`: the
    /// reader has looked into them.
    #[must_use]
    pub fn kills_before(mut self, seq: u64) -> Self {
        self.kills_before = seq;
        self
    }

    fn accepts(&self, kill: &KilledRun) -> bool {
        kill.next_seq < self.kills_before
    }
}

impl From<UnanchoredEnd> for Accepted {
    fn from(end: UnanchoredEnd) -> Self {
        Self {
            end,
            kills_before: 0,
        }
    }
}

/// The verdict on a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Something contradicts the checkpoints, the anchors or the numbers, whatever else was found.
    Broken,
    /// Everything on disk holds, and something is missing: [`Report::missing`] states what.
    Lacking,
    /// A part could not be checked, and nothing else is broken.
    NotChecked,
    /// Everything holds and nothing is missing.
    Sound,
}

/// Something that a trail lacks although everything on disk holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// An anchor holds a checkpoint that the trail contradicts and declares void
    /// ([`AnchorState::Voided`](super::AnchorState::Voided)): either it was copied out of void bytes,
    /// or records were replaced.
    AnchorConfirmed,
    /// No anchor confirms the last checkpoint: the end may have been cut off.
    EndVouchedFor,
    /// The last record is not `TrailClosed`: the process still runs, or has died.
    Close,
    /// A run, or its machine, was killed before it closed the trail. The records that it had queued
    /// are missing. (This is for format 2; for format 1, only [`Records`](Self::Records) shows it.)
    KilledRuns,
    /// The oldest segments are absent.
    OlderSegments,
    /// Records had a number and are not in the trail. There was no room for them (`RecordsLost`),
    /// or their process was killed before they were acknowledged.
    Records,
    /// Bytes behind the last checkpoint are acknowledged by no checkpoint.
    TailAcknowledged,
}

impl Verdict {
    /// Returns the exit status for a command: 0 sound, 1 broken, 2 not checked, 3 something is
    /// missing.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Sound => 0,
            Self::Broken => 1,
            Self::NotChecked => 2,
            Self::Lacking => 3,
        }
    }
}

impl Report {
    /// Returns the verdict. Broken goes before not checked, and not checked before missing.
    ///
    /// ```
    /// # use vram_trail::{Accepted, Report, UnanchoredEnd, Verdict};
    /// # fn judge(report: &Report) -> Verdict {
    /// report.verdict(Accepted::from(UnanchoredEnd::Refused).kills_before(1_000))
    /// # }
    /// ```
    pub fn verdict(&self, accepted: impl Into<Accepted>) -> Verdict {
        match self.outcome {
            Outcome::Broken => Verdict::Broken,
            Outcome::NotChecked => Verdict::NotChecked,
            Outcome::Holds if self.missing(accepted).is_empty() => Verdict::Sound,
            Outcome::Holds => Verdict::Lacking,
        }
    }

    /// Returns what the trail lacks, as far as it was checked.
    pub fn missing(&self, accepted: impl Into<Accepted>) -> Vec<Missing> {
        let accepted = accepted.into();
        let kills = self.kills.iter().chain(&self.unlisted_kill);
        let lacks = |lacks| {
            kills
                .clone()
                .any(|kill| !accepted.accepts(kill) && kill.lacks() == lacks)
        };
        let lost = self.records_lost > 0 || lacks(Lacks::Records);
        let killed = lacks(Lacks::Run);
        let unanchored = !self.end_vouched_for && accepted.end == UnanchoredEnd::Refused;
        [
            (self.voided_anchors > 0, Missing::AnchorConfirmed),
            (unanchored, Missing::EndVouchedFor),
            (!self.closed, Missing::Close),
            (killed, Missing::KilledRuns),
            (self.older_segments_absent, Missing::OlderSegments),
            (lost, Missing::Records),
            (self.tail.is_some(), Missing::TailAcknowledged),
        ]
        .into_iter()
        .filter_map(|(is_missing, what)| is_missing.then_some(what))
        .collect()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AnchorConfirmed => "an anchor holds a checkpoint that the trail declares void",
            Self::Close => "the trail was not closed",
            Self::EndVouchedFor => "no anchor vouches for the end",
            Self::KilledRuns => "a run was killed before it closed the trail",
            Self::OlderSegments => "older segments are absent",
            Self::Records => "records are lost",
            Self::TailAcknowledged => "the tail is not acknowledged",
        })
    }
}
