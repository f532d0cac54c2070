//! The outcome of a verification: from the finding, through its record, to the caller's result.
//!
//! [`Queued`] takes this path for sealing, verifying and checking, of one shard and of many. This
//! module does not know how anything is found.

use std::ops::ControlFlow;

use vram_digest::Progress;
use vram_trail::NotDurable;

use crate::device::DeviceError;
use crate::error::NoAnswer;
use crate::event::Reason;
use crate::verification::Incident;
use crate::verification::{Failing, Findings, Late, OpenVerification};

/// A finding that is not recorded yet.
pub(super) type Found<T> = Result<T, Failed>;

/// The reason why a finding is not good.
pub(super) enum Failed {
    /// The shard has failed its verification.
    Broken(Reason, Findings),
    /// The question has no answer.
    NoAnswer(NoAnswer),
}

/// The reason why there is no proof. It is recorded, and a broken shard is no longer served.
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

/// A finding, with the record of a failure queued.
///
/// Nothing waits at this point: all of many shards reach it before the first is settled.
pub(super) enum Queued<T> {
    Good(OpenVerification, T),
    Failing(Failing),
    NoAnswer(OpenVerification, NoAnswer),
}

impl<T> Queued<T> {
    /// Stops the clock: later steps do not count against the deadline of the verification.
    pub(super) fn new(open: OpenVerification, found: Found<T>) -> Self {
        open.stop_clock();
        Self::early(open, found)
    }

    /// Wraps an early finding. A good finding continues the verification, with the clock running.
    pub(super) fn early(open: OpenVerification, found: Found<T>) -> Self {
        match found {
            Ok(good) => Self::Good(open, good),
            Err(Failed::Broken(reason, findings)) => Self::Failing(open.fail(reason, findings)),
            Err(Failed::NoAnswer(cause)) => Self::NoAnswer(open, cause),
        }
    }

    /// Continues a good finding with the last step.
    pub(super) fn then<U>(self, find: impl FnOnce(T) -> Found<U>) -> Queued<U> {
        match self {
            Self::Good(open, good) => Queued::new(open, find(good)),
            Self::Failing(failing) => Queued::Failing(failing),
            Self::NoAnswer(open, cause) => Queued::NoAnswer(open, cause),
        }
    }

    /// Leaves the verification without an outcome, unless it has failed already.
    pub(super) fn leave(self) -> Failing {
        match self {
            Self::Good(open, _) | Self::NoAnswer(open, _) => open.interrupt(),
            Self::Failing(failing) => failing,
        }
    }

    /// Returns a good finding that is in time, and ends the verification otherwise.
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

/// Wraps `progress` so that it is not called at the end of reading, when nothing is compared yet.
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

/// Calls `progress` for the last time, only with a good finding. Its answer must not hide a bad
/// one.
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
