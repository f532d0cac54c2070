//! An open verification, and the incident that comes out of a failed one.
//!
//! A verification is opened before the first byte is read and leaves with exactly one outcome.
//! [`OpenVerification::broken`] is the only place where an [`Incident`] is made, and it is made from
//! what the trail answered: there is no failure value before its record is acknowledged, or its caller
//! knows that it was not yet. If the guard goes out of scope without an outcome, its destructor records `interrupted`.
//! A destructor can be skipped, a missing `Incident` cannot be invented: the promise rests on the
//! latter.
//!
//! Every failure takes the same steps, whatever it is a failure of: record, wait for the trail's answer,
//! end leases ([`Standing`]), tell the caller. A check that has a deadline and exceeds it takes them without its
//! caller ([`deadline`]). This module does not know how bytes are read or compared.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use vram_digest::Digest;
use vram_trail::{Mark, NotDurable, Receipt, Seq, Submitted, Text};

use self::deadline::Timed;
use crate::event::{AnyDigest, Event, Failure, History, Reason, Sealing, Subject};
use crate::id::ShardId;
use crate::registry::Recorder;
use crate::registry::Standing;

pub(crate) use self::deadline::{AllTimed, Deadline, Late, Missed};

mod deadline;
#[cfg(all(test, shuttle))]
mod threads;

/// How sure an operation must be of its record before it succeeds.
///
/// Under either, a *failed* verification is acknowledged before its error exists, or the error says that it was not
/// yet: see [`Incident::record`](Incident::record).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Assurance {
    /// The record of an allocation, a sealing or a passed verification is on disk before the
    /// operation succeeds. When the trail cannot write, nothing is allocated, sealed or verified.
    ///
    /// A record that was not durable in time stays queued and may be written later. One of an
    /// allocation is then followed by `VramDeallocated`, one of a sealing by
    /// `VerificationInconclusive`, which take it back. One of a passed verification is not taken
    /// back: the bytes were equal, although the caller got the shard back without that proof.
    Durable,
    /// The record is queued, and on disk within a second. When the trail cannot take it, that is
    /// counted, logged and recorded as a gap, and serving goes on.
    #[default]
    Queued,
}

/// A verification that has no outcome yet.
#[must_use = "an open verification that is dropped is recorded as interrupted"]
pub(crate) struct OpenVerification {
    inquiry: Inquiry,
    assurance: Assurance,
    /// None if it may take any time.
    timed: Option<Arc<Timed>>,
    stage: Stage,
}

enum Stage {
    Open,
    /// The record of its failure is queued.
    Failing(Said),
    Over,
}

/// What is verified, and where the outcome goes.
#[derive(Clone, Debug)]
struct Inquiry {
    recorder: Recorder,
    subject: Subject,
    operation: &'static str,
    history: History,
    injected: bool,
    served: Option<Arc<Standing>>,
}

/// What a failed verification found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) expected: Option<AnyDigest>,
    pub(crate) actual: Option<AnyDigest>,
    pub(crate) damaged: Vec<Range<u64>>,
    pub(crate) detail: Option<Text>,
}

/// A failed verification: what was found, and what the trail has said of its record.
///
/// It exists only after the trail has answered: the record is acknowledged, or was not durable yet when the
/// critical deadline passed or writing failed. [`record`](Self::record) asks again.
#[derive(Debug)]
pub struct Incident {
    failure: Box<Failure>,
    mark: Mark,
    /// What the trail has answered at first.
    record: Result<Receipt, NotDurable>,
    /// What it has answered since, once that is final.
    fate: OnceLock<Result<Receipt, NotDurable>>,
}

impl OpenVerification {
    /// Opens a verification; from here on, leaving without an outcome is recorded.
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

    /// An incident ends what is served.
    pub(crate) fn of_served(mut self, served: Arc<Standing>) -> Self {
        self.inquiry.served = Some(served);
        self
    }

    /// From now on it has so long to come to an outcome.
    pub(crate) fn within(mut self, deadline: Deadline) -> Self {
        self.timed = Some(Timed::begin(&self.inquiry, deadline));
        self
    }

    /// The answer is there: what follows takes none of the time that the verification has.
    pub(crate) fn stop_clock(&self) {
        if let Some(timed) = &self.timed {
            timed.stop();
        }
    }

    /// Goes on if the verification was in time, or has no deadline. Otherwise it has its outcome: whatever
    /// was found that is not a failure changes nothing.
    pub(crate) fn in_time(mut self) -> Result<Self, Late> {
        let outcome = self.timed.take().map_or(Ok(()), |timed| timed.outcome());
        if let Err(late) = outcome {
            self.stage = Stage::Over;
            return Err(late);
        }
        Ok(self)
    }

    /// The bytes are what was sealed. Under [`Assurance::Durable`] this fails if the record does.
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

    /// The shard is sealed. Under [`Assurance::Durable`] this fails if the record does. Then there is
    /// no sealed shard, but its record may stay queued and be written later: another one, behind it,
    /// says that the sealing was given up.
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

    /// There is no answer, and that says nothing about the bytes.
    pub(crate) fn inconclusive(mut self, cause: Text) -> Mark {
        let mark = self.inquiry.give_up(cause);
        self.stage = Stage::Over;
        mark
    }

    /// The verification failed. Returns once the trail has answered (the record is durable, or was not yet), and
    /// nothing is served any more.
    pub(crate) fn broken(self, reason: Reason, findings: Findings) -> Incident {
        self.fail(reason, findings).conclude()
    }

    /// The verification failed. Queues the record; where there are many, all do so before the first is waited
    /// for, and all wait no longer than one.
    pub(crate) fn fail(mut self, reason: Reason, findings: Findings) -> Failing {
        self.stage = Stage::Failing(self.say(reason, findings));
        Failing(self)
    }

    /// It is left without an outcome.
    pub(crate) fn interrupt(self) -> Failing {
        self.fail(Reason::Interrupted, Findings::default())
    }

    /// Waits for the record of a failure, and ends what is served. Without one, it was interrupted.
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

    /// Queues the record of a failure, which is one also if it comes too late.
    fn say(&self, reason: Reason, findings: Findings) -> Said {
        self.stop_clock();
        self.inquiry.say(reason, findings)
    }
}

/// A verification that failed. Its record is queued. What is served ends when this is concluded, or dropped.
#[must_use = "what is served has not ended"]
pub(crate) struct Failing(OpenVerification);

impl Failing {
    /// Returns once the trail has answered, and nothing is served any more.
    pub(crate) fn conclude(mut self) -> Incident {
        self.0.conclude()
    }
}

/// Verifications that are left together if that happens, as by a panic: all are recorded as interrupted before
/// the first record is waited for.
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

    /// From here on each is left by itself.
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

    /// Waits for the record of a failure, and ends what is served.
    fn conclude(&self, said: Said) -> Incident {
        let answer = self.recorder.answer(said.record);
        self.end(said.failure, answer)
    }

    /// Ends what is served with what the trail says now. Does not wait: the writer calls it.
    fn conclude_now(&self, said: Said) -> Incident {
        let answer = self.recorder.answer_now(said.record);
        self.end(said.failure, answer)
    }

    /// The trail has answered: nothing is served any more.
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
    record: Submitted,
}

impl Findings {
    /// What a failure of the device tells.
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
        // From the first record on that was refused, its outcome may have been, too: it stays counted.
        if !recorder.has_refused() {
            recorder.application().verification_ends();
        }
    }
}

impl Incident {
    /// The shard that failed.
    pub fn shard(&self) -> &ShardId {
        &self.failure.subject.shard
    }

    /// The number of the allocation that failed, unique in a run of the worker.
    pub fn allocation(&self) -> u64 {
        self.failure.subject.allocation
    }

    /// Why it failed.
    pub fn reason(&self) -> Reason {
        self.failure.reason
    }

    /// The digest that was expected, in hexadecimal: the sealed one, or the provenance's.
    pub fn expected(&self) -> Option<String> {
        self.failure.expected.map(|digest| digest.to_string())
    }

    /// The digest that was found, in hexadecimal.
    pub fn actual(&self) -> Option<String> {
        self.failure.actual.map(|digest| digest.to_string())
    }

    /// The windows (of 512 KiB) that differ from what was sealed, as half-open ranges.
    pub fn damaged_windows(&self) -> &[Range<u64>] {
        &self.failure.damaged
    }

    /// What else is known, in words.
    pub fn detail(&self) -> Option<&str> {
        self.failure.detail.as_deref()
    }

    /// When the failure was established.
    pub fn detected_at(&self) -> SystemTime {
        self.mark.time.to_system_time()
    }

    /// The number of the record, durable or not; none if the trail was closed.
    pub fn seq(&self) -> Option<Seq> {
        self.mark.seq
    }

    /// The proof that the record is durable, or the reason why there is none yet.
    ///
    /// Asks the trail, without waiting, until the answer is final: a record that was late is durable once the disk answers.
    /// A record that was refused never gets a receipt. An incident does not keep the trail open.
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

    /// Whether the `fault-injection` feature made this failure.
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
