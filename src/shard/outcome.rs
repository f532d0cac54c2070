//! What a verification comes to: first what was found, then what its caller is told.
//!
//! Between the two lies the record. [`Queued`] is the way from one to the other, for sealing, verifying and
//! checking, of one shard and of many. This module does not know how anything is found.

use std::ops::ControlFlow;

use vram_digest::Progress;
use vram_trail::NotDurable;

use crate::device::DeviceError;
use crate::error::NoAnswer;
use crate::event::Reason;
use crate::verification::Incident;
use crate::verification::{Failing, Findings, Late, OpenVerification};

/// What was found, and is not on record.
pub(super) type Found<T> = Result<T, Failed>;

/// Why nothing good was found.
pub(super) enum Failed {
    /// The shard has failed its verification.
    Broken(Reason, Findings),
    /// That is not known.
    NoAnswer(NoAnswer),
}

/// Why there is no proof. It is on record, and what is served of the shard has ended if it is broken.
pub(super) enum Unproven {
    Broken(Box<Incident>),
    Inconclusive(NoAnswer),
    Unrecorded(NotDurable),
}

impl From<NoAnswer> for Failed {
    fn from(cause: NoAnswer) -> Self {
        if cause.is_broken() {
            return Self::Broken(Reason::DeviceError, Findings::of_device(&cause));
        }
        Self::NoAnswer(cause)
    }
}

impl From<DeviceError> for Failed {
    fn from(error: DeviceError) -> Self {
        NoAnswer::of_device(error).into()
    }
}

impl From<Late> for Unproven {
    fn from(late: Late) -> Self {
        match late {
            Late::Failed(incident) => Self::Broken(incident),
            Late::Lapsed { limit } => Self::Inconclusive(NoAnswer::timed_out(limit)),
        }
    }
}

/// What was found. The record of a failure is queued, and nothing is waited for: of many shards, all come here
/// before one is settled.
pub(super) enum Queued<T> {
    Good(OpenVerification, T),
    Failing(Failing),
    NoAnswer(OpenVerification, NoAnswer),
}

impl<T> Queued<T> {
    /// What follows takes none of the time that the verification has.
    pub(super) fn new(open: OpenVerification, found: Found<T>) -> Self {
        open.stop_clock();
        Self::early(open, found)
    }

    /// With what is good the verification goes on.
    pub(super) fn early(open: OpenVerification, found: Found<T>) -> Self {
        match found {
            Ok(good) => Self::Good(open, good),
            Err(Failed::Broken(reason, findings)) => Self::Failing(open.fail(reason, findings)),
            Err(Failed::NoAnswer(cause)) => Self::NoAnswer(open, cause),
        }
    }

    /// Goes on with what is good, to the end.
    pub(super) fn then<U>(self, find: impl FnOnce(T) -> Found<U>) -> Queued<U> {
        match self {
            Self::Good(open, good) => Queued::new(open, find(good)),
            Self::Failing(failing) => Queued::Failing(failing),
            Self::NoAnswer(open, cause) => Queued::NoAnswer(open, cause),
        }
    }

    /// It is left without an outcome, if it has none.
    pub(super) fn leave(self) -> Failing {
        match self {
            Self::Good(open, _) | Self::NoAnswer(open, _) => open.interrupt(),
            Self::Failing(failing) => failing,
        }
    }

    /// Goes on with what is good and in time, and ends the verification otherwise.
    pub(super) fn settle(self) -> Result<(OpenVerification, T), Unproven> {
        match self {
            Self::Good(open, good) => Ok((open.in_time()?, good)),
            Self::Failing(failing) => Err(Unproven::Broken(Box::new(failing.conclude()))),
            Self::NoAnswer(open, cause) => {
                let open = open.in_time()?;
                open.inconclusive(cause.to_string().into());
                Err(Unproven::Inconclusive(cause))
            }
        }
    }
}

/// Calls `progress` on the way, and not at the end of reading: nothing is compared yet.
pub(super) fn on_the_way(
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> impl FnMut(Progress) -> ControlFlow<()> {
    |now| {
        if now.done < now.total {
            progress(now)
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Calls `progress` for the last time, with what is good. What is not must not be lost by its answer.
pub(super) fn at_the_end<T>(
    good: T,
    total: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Found<T> {
    match progress(Progress::new(total, total)) {
        ControlFlow::Continue(()) => Ok(good),
        ControlFlow::Break(()) => Err(Failed::NoAnswer(NoAnswer::stopped())),
    }
}
