//! An open verification, and the incident that results from a failed one.
//!
//! A verification is opened before the first byte is read and ends with exactly one outcome.
//! [`OpenVerification::broken`] is the only place where an [`Incident`] is made, from the trail's
//! answer. There is no failure value before its record is acknowledged, or its caller knows that it
//! was not yet. If the guard goes out of scope without an outcome, its destructor records
//! `interrupted`. A destructor can be skipped, but a missing `Incident` cannot be invented: the
//! guarantee rests on the latter.
//!
//! Every failure takes the same steps: record, wait for the trail's answer, end leases
//! ([`Standing`]), report to the caller. A check that exceeds its deadline takes them without its
//! caller ([`deadline`]). This module does not know how bytes are read or compared.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use vram_digest::Digest;
use vram_trail::{Mark, NotDurable, Receipt, Seq, Submitted, Text};

use self::deadline::Timed;
use crate::event::{AnyDigest, Event, Failure, History, Reason, Sealing, Subject};
use crate::id::ShardId;
use crate::registry::{Recorder, Registry, Standing};

pub(crate) use self::deadline::{AllTimed, Deadline, Late, Missed};

mod deadline;
#[cfg(all(test, shuttle))]
mod threads;

/// How certain an operation must be of its record before it succeeds.
///
/// Under either, a *failed* verification is acknowledged before its error exists, or the error
/// states that it was not yet: see [`Incident::record`](Incident::record).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Assurance {
    /// The record of an allocation, a sealing or a passed verification is on disk before the
    /// operation succeeds. While the trail cannot write, nothing is allocated, sealed or verified.
    ///
    /// A record that was not durable in time stays queued and may be written later. For an
    /// allocation, `VramDeallocated` then follows and takes it back. For a sealing,
    /// `VerificationInconclusive` does. The record of a passed verification is not taken back: the
    /// bytes were equal, although the caller got the shard back without that proof.
    Durable,
    /// The record is queued, and on disk within a second. If the trail cannot take it, the loss is
    /// counted, logged and recorded as a gap, and serving goes on.
    #[default]
    Queued,
}

/// A verification that has no outcome yet.
#[must_use = "an open verification that is dropped is recorded as interrupted"]
pub(crate) struct OpenVerification {
    inquiry: Inquiry,
    assurance: Assurance,
    /// `None` if there is no time limit.
    timed: Option<Arc<Timed>>,
    stage: Stage,
}

enum Stage {
    Open,
    /// The record of its failure is queued.
    Failing(Said),
    Over,
}

/// The subject of a verification, and where its outcome goes.
#[derive(Clone, Debug)]
struct Inquiry {
    recorder: Recorder,
    subject: Subject,
    operation: &'static str,
    history: History,
    injected: bool,
    served: Option<Arc<Standing>>,
}

/// The findings of a failed verification.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) expected: Option<AnyDigest>,
    pub(crate) actual: Option<AnyDigest>,
    pub(crate) damaged: Vec<Range<u64>>,
    pub(crate) detail: Option<Text>,
}

/// A failed verification: the findings, and the trail's answer for its record.
///
/// It exists only after the trail has answered: the record is acknowledged, or was not durable yet
/// when the critical deadline passed or writing failed. [`record`](Self::record) asks again.
#[derive(Debug)]
pub struct Incident {
    failure: Box<Failure>,
    mark: Mark,
    /// The trail's first answer.
    record: Result<Receipt, NotDurable>,
    /// The trail's final answer, once there is one.
    fate: OnceLock<Result<Receipt, NotDurable>>,
}

impl OpenVerification {
    /// Opens a verification. From here on, an end without an outcome is recorded.
    pub(crate) fn begin(
        recorder: &Recorder,
        assurance: Assurance,
        subject: Subject,
        operation: &'static str,
        history: History,
        injected: bool,
    ) -> Self {
        recorder.application().verification_begins();
        let inquiry = Inquiry {
            recorder: recorder.clone(),
            subject,
            operation,
            history,
            injected,
            served: None,
        };
        Self {
            inquiry,
            assurance,
            timed: None,
            stage: Stage::Open,
        }
    }

    /// Adds the served shard, whose leases an incident ends.
    pub(crate) fn of_served(mut self, served: Arc<Standing>) -> Self {
        self.inquiry.served = Some(served);
        self
    }

    /// Sets the time limit for an outcome, from now on.
    pub(crate) fn within(mut self, deadline: Deadline) -> Self {
        self.timed = Some(Timed::begin(&self.inquiry, deadline));
        self
    }

    /// Stops the clock: the answer is there, and later steps do not count against the time limit.
    pub(crate) fn stop_clock(&self) {
        if let Some(timed) = &self.timed {
            timed.stop();
        }
    }

    /// Returns the verification if it was in time, or has no deadline. Otherwise it has its outcome
    /// already, and findings that are no failure change nothing.
    pub(crate) fn in_time(mut self) -> Result<Self, Late> {
        let outcome = self.timed.take().map_or(Ok(()), |timed| timed.outcome());
        if let Err(late) = outcome {
            self.stage = Stage::Over;
            return Err(late);
        }
        Ok(self)
    }

    /// Records that the bytes equal the sealed ones. Under [`Assurance::Durable`] this fails if the
    /// record does.
    pub(crate) fn verified(
        mut self,
        digest: Digest,
        windows: Range<u64>,
        bytes: u64,
    ) -> Result<Mark, NotDurable> {
        let outcome = self.succeed(Event::SealVerified {
            subject: self.inquiry.subject.clone(),
            operation: self.inquiry.operation,
            digest,
            first_window: windows.start,
            end_window: windows.end,
            bytes,
        });
        self.stage = Stage::Over;
        outcome
    }

    /// Records that the shard is sealed. Under [`Assurance::Durable`] this fails if the record
    /// does. Then there is no sealed shard, but its record may stay queued and be written later.
    /// Another record behind it states that the sealing was given up.
    pub(crate) fn sealed(mut self, sealed: Sealing) -> Result<Mark, NotDurable> {
        let outcome = self.succeed(Event::VramSealed {
            subject: self.inquiry.subject.clone(),
            sealed: Box::new(sealed),
        });
        if outcome.is_err() {
            self.inquiry
                .give_up("the sealing was given up: its record was not durable in time".into());
        }
        self.stage = Stage::Over;
        outcome
    }

    /// Records that there is no answer, which implies nothing about the bytes.
    pub(crate) fn inconclusive(mut self, cause: Text) -> Mark {
        let mark = self.inquiry.give_up(cause);
        self.stage = Stage::Over;
        mark
    }

    /// Records the failure. Returns once the trail has answered (the record is durable, or was not
    /// yet), and the shard is no longer served.
    pub(crate) fn broken(self, reason: Reason, findings: Findings) -> Incident {
        self.fail(reason, findings).conclude()
    }

    /// Queues the record of the failure. With many failures, all are queued before the first wait,
    /// and all wait no longer than one.
    pub(crate) fn fail(mut self, reason: Reason, findings: Findings) -> Failing {
        self.stage = Stage::Failing(self.say(reason, findings));
        Failing(self)
    }

    /// Records that the verification was left without an outcome.
    pub(crate) fn interrupt(self) -> Failing {
        self.fail(Reason::Interrupted, Findings::default())
    }

    /// Waits for the record of a failure, and ends serving. Without a failure, the verification was
    /// interrupted.
    fn conclude(&mut self) -> Incident {
        let said = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Failing(said) => said,
            Stage::Open | Stage::Over => self.say(Reason::Interrupted, Findings::default()),
        };
        self.inquiry.conclude(said)
    }

    fn succeed(&self, event: Event) -> Result<Mark, NotDurable> {
        let recorder = &self.inquiry.recorder;
        match self.assurance {
            Assurance::Queued => Ok(recorder.emit(event)),
            Assurance::Durable => {
                let (mark, outcome) = recorder.commit(event);
                outcome.map(|_| mark)
            }
        }
    }

    /// Queues the record of a failure. A failure counts also if it comes too late.
    fn say(&self, reason: Reason, findings: Findings) -> Said {
        self.stop_clock();
        self.inquiry.say(reason, findings)
    }
}

/// A failed verification whose record is queued. Serving ends when this is concluded, or dropped.
#[must_use = "what is served has not ended"]
pub(crate) struct Failing(OpenVerification);

impl Failing {
    /// Returns once the trail has answered and the shard is no longer served.
    pub(crate) fn conclude(mut self) -> Incident {
        self.0.conclude()
    }
}

/// Verifications that may be left together, as by a panic. All are then recorded as interrupted
/// before the first wait for a record.
pub(crate) struct Together<T> {
    all: Vec<T>,
    leave: fn(T) -> Option<Failing>,
}

impl<T> Together<T> {
    pub(crate) fn new(all: Vec<T>, leave: fn(T) -> Option<Failing>) -> Self {
        Self { all, leave }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.all.iter()
    }

    /// Separates them: from here on each is left alone.
    pub(crate) fn part(mut self) -> Vec<T> {
        std::mem::take(&mut self.all)
    }
}

impl<T> Drop for Together<T> {
    fn drop(&mut self) {
        if vram_trail::process::check().is_err() {
            return;
        }
        let failing: Vec<_> = self.all.drain(..).filter_map(self.leave).collect();
        drop(failing);
    }
}

impl Inquiry {
    fn give_up(&self, cause: Text) -> Mark {
        self.recorder.emit(Event::VerificationInconclusive {
            subject: self.subject.clone(),
            operation: self.operation,
            cause,
        })
    }

    /// Queues the record of a failure.
    fn say(&self, reason: Reason, findings: Findings) -> Said {
        let failure = Box::new(Failure {
            subject: self.subject.clone(),
            reason,
            operation: self.operation,
            expected: findings.expected,
            actual: findings.actual,
            history: self.history,
            damaged_windows: findings.damaged.iter().fold(0, |sum, range| {
                sum.saturating_add(range.end.saturating_sub(range.start))
            }),
            damaged: findings.damaged,
            detail: findings.detail,
            injected: self.injected,
        });
        let record = self.recorder.submit(Event::SealVerificationFailed {
            failure: failure.clone(),
        });
        Said { failure, record }
    }

    /// Waits for the record of a failure, and ends serving.
    fn conclude(&self, said: Said) -> Incident {
        let answer = self.recorder.answer(said.record);
        self.end(said.failure, answer)
    }

    /// Ends serving with the trail's present answer. Does not wait, since the writer calls it.
    fn conclude_now(&self, said: Said) -> Incident {
        let answer = self.recorder.answer_now(said.record);
        self.end(said.failure, answer)
    }

    /// Ends serving after the trail has answered.
    fn end(&self, failure: Box<Failure>, answer: (Mark, Result<Receipt, NotDurable>)) -> Incident {
        let (mark, record) = answer;
        let incident = Incident {
            failure,
            mark,
            record,
            fate: OnceLock::new(),
        };
        if let Some(served) = &self.served {
            served.revoke(&incident);
        }
        incident
    }
}

/// A failure whose record is queued.
#[derive(Debug)]
struct Said {
    failure: Box<Failure>,
    record: Submitted<Registry>,
}

impl Findings {
    /// Returns the findings for a failure of the device.
    pub(crate) fn of_device(error: &impl std::fmt::Display) -> Self {
        Self {
            detail: Some(error.to_string().into()),
            ..Self::default()
        }
    }
}

impl Drop for OpenVerification {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Over) && vram_trail::process::check().is_ok() {
            let _recorded = self.conclude();
        }
        let recorder = &self.inquiry.recorder;
        // From the first refused record on, its outcome may have been refused, too, so it stays
        // counted.
        if !recorder.has_refused() {
            recorder.application().verification_ends();
        }
    }
}

impl Incident {
    /// Returns the shard that failed.
    pub fn shard(&self) -> &ShardId {
        &self.failure.subject.shard
    }

    /// Returns the number of the allocation that failed, unique in a run of the worker.
    pub fn allocation(&self) -> u64 {
        self.failure.subject.allocation
    }

    /// Returns why it failed.
    pub fn reason(&self) -> Reason {
        self.failure.reason
    }

    /// Returns the expected digest, in hexadecimal: the sealed one, or the provenance's.
    pub fn expected(&self) -> Option<String> {
        self.failure.expected.map(|digest| digest.to_string())
    }

    /// Returns the digest that was found, in hexadecimal.
    pub fn actual(&self) -> Option<String> {
        self.failure.actual.map(|digest| digest.to_string())
    }

    /// Returns the windows (of 512 KiB) that differ from the sealed ones, as half-open ranges.
    pub fn damaged_windows(&self) -> &[Range<u64>] {
        &self.failure.damaged
    }

    /// Returns further details in words.
    pub fn detail(&self) -> Option<&str> {
        self.failure.detail.as_deref()
    }

    /// Returns when the failure was established.
    pub fn detected_at(&self) -> SystemTime {
        self.mark.time.to_system_time()
    }

    /// Returns the number of the record, durable or not. `None` if the trail was closed.
    pub fn seq(&self) -> Option<Seq> {
        self.mark.seq
    }

    /// Returns the proof that the record is durable, or the reason why there is none yet.
    ///
    /// Asks the trail, without waiting, until the answer is final: a late record becomes durable
    /// once the disk answers. A record that was refused never gets a receipt. An incident does not
    /// keep the trail open.
    ///
    /// # Errors
    ///
    /// [`NotDurable`] with the reason why the record is not durable.
    pub fn record(&self) -> Result<&Receipt, &NotDurable> {
        let Err(error) = &self.record else {
            return self.record.as_ref();
        };
        match self.fate.get() {
            Some(fate) => fate.as_ref(),
            None => match error.fate() {
                Some(fate) => self.fate.get_or_init(|| fate).as_ref(),
                None => Err(error),
            },
        }
    }

    /// Returns whether the `fault-injection` feature made this failure.
    pub fn is_injected(&self) -> bool {
        self.failure.injected
    }
}

impl std::fmt::Display for Incident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "shard {} failed its verification: {}",
            self.failure.subject.shard, self.failure.reason
        )?;
        match (&self.failure.expected, &self.failure.actual) {
            (Some(expected), Some(actual)) => write!(f, ", expected {expected}, found {actual}")?,
            (Some(expected), None) => write!(f, ", expected {expected}")?,
            (None, Some(actual)) => write!(f, ", found {actual}")?,
            (None, None) => {}
        }
        if let Some(detail) = &self.failure.detail {
            write!(f, ": {detail}")?;
        }
        match self.record() {
            Ok(receipt) => write!(f, " (durable as record {})", receipt.seq()),
            Err(error) => write!(f, " (NOT durable: {error})"),
        }
    }
}
