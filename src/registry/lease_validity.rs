//! Decides whether the leases of a shared shard are good, and until when.
//!
//! One number holds the answer. Queries about a shared shard take no lock: in a forked child, a
//! lock may be held by a thread that does not exist there.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vram_trail::Mark;
use vram_trail::clock::{Time, Uptime};
use vram_trail::process::ForkMark;

use super::Recorder;
use crate::error::Revoked;
use crate::event::{Event, History, Subject};
use crate::verification::{Assurance, Incident, OpenVerification};

/// A check failed: no time is good any more.
const FAILED: u64 = 0;

/// There is no maximum age: every time is good.
const ALWAYS: u64 = u64::MAX;

/// Whether leases are good.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Boot time in nanoseconds until which leases are good, [`ALWAYS`] or [`FAILED`]. [`FAILED`]
    /// is final. Otherwise the value only grows, under the lock of `last`, whose limit it is.
    good_until: AtomicU64,
    /// In a forked child no time is good.
    mark: ForkMark,
    /// The time of the last passed check, in nanoseconds, for code that must not lock.
    verified: AtomicI64,
    max_age: Option<Duration>,
    recorder: Recorder,
    subject: Subject,
    last: Mutex<Last>,
}

/// When the whole shard was last found equal to its seal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastCheck {
    /// The record of that check.
    pub(crate) mark: Mark,
    /// When the first byte was read. The age of a verification counts from here.
    pub(crate) began: Uptime,
}

/// The last passed check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) check: LastCheck,
    pub(crate) history: History,
    /// It is recorded that the check has become too old.
    overdue: bool,
}

impl LastCheck {
    /// Returns the history of a shard for which this was the last check.
    pub(crate) fn after(&self, history: History) -> History {
        let Mark { seq, time } = self.mark;
        History {
            last_verified_seq: seq,
            last_verified_time: Some(time),
            ..history
        }
    }
}

impl Standing {
    pub(crate) fn new(
        recorder: Recorder,
        subject: Subject,
        check: LastCheck,
        history: History,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            good_until: good_until(check.began, max_age).into(),
            mark: ForkMark::find(),
            verified: AtomicI64::new(check.mark.time.unix_nanoseconds()),
            max_age,
            recorder,
            subject,
            last: Mutex::new(Last {
                check,
                history,
                overdue: false,
            }),
        }
    }

    /// Judges with two atomic loads. The clock is read only if there is a maximum age.
    pub(crate) fn judge(&self) -> Result<(), Revoked> {
        self.mark.check()?;
        match self.good_until.load(Ordering::Acquire) {
            ALWAYS => Ok(()),
            FAILED => Err(Revoked::Failed),
            until if now() <= until => Ok(()),
            _ => Err(Revoked::Overdue),
        }
    }

    /// Judges likewise. If leases have run out, it records that, once for each time.
    pub(crate) fn judge_on_record(&self) -> Result<(), Revoked> {
        match self.judge() {
            Err(Revoked::Overdue) => self.record_overdue(),
            verdict => verdict,
        }
    }

    /// Judges again: a check may have passed by now, and then nothing is overdue. Under the lock
    /// the limit belongs to the last check, so the record states what was judged.
    fn record_overdue(&self) -> Result<(), Revoked> {
        let mut last = self.last();
        let verdict = self.judge();
        if let Some(max_age) = self.max_age
            && verdict == Err(Revoked::Overdue)
            && !std::mem::replace(&mut last.overdue, true)
        {
            let history = last.history;
            drop(last);
            self.recorder.emit(Event::VerificationOverdue {
                subject: self.subject.clone(),
                history,
                max_age_ms: u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX),
            });
        }
        verdict
    }

    /// Notes that a check of everything passed. It may have run beside one that failed, or that
    /// began later.
    pub(crate) fn pass(&self, check: LastCheck) {
        let mut last = self.last();
        if check.began <= last.check.began {
            return;
        }
        *last = Last {
            check,
            history: check.after(last.history),
            overdue: false,
        };
        self.verified
            .store(check.mark.time.unix_nanoseconds(), Ordering::Release);
        let until = good_until(check.began, self.max_age);
        // Refused if a check has failed. The result is the old value, which is not needed.
        let _before = self
            .good_until
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (old != FAILED).then_some(until)
            });
    }

    /// Returns when the whole shard was last found equal to its seal.
    pub(crate) fn verified(&self) -> Time {
        Time::from_unix_nanoseconds(self.verified.load(Ordering::Acquire))
    }

    pub(crate) fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether leases run out without a check.
    pub(crate) fn can_be_overdue(&self) -> bool {
        self.max_age.is_some()
    }

    /// Returns which shard it is.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Opens a verification, unless a check has failed.
    pub(crate) fn open(self: &Arc<Self>, operation: &'static str) -> Option<OpenVerification> {
        if self.judge() == Err(Revoked::Failed) {
            return None;
        }
        let (subject, history) = (self.subject.clone(), self.last().history);
        let open = OpenVerification::begin(
            &self.recorder,
            Assurance::Queued,
            subject,
            operation,
            history,
            false,
        );
        Some(open.of_served(Arc::clone(self)))
    }

    /// Ends all leases, now that the incident is recorded.
    pub(crate) fn revoke(&self, _on_record: &Incident) {
        self.good_until.store(FAILED, Ordering::Release);
    }

    /// Records that leases have run out.
    pub(crate) fn tick(&self) {
        let _nobody_to_refuse = self.judge_on_record();
    }
}

/// Returns until when a check that began at `began` is young enough.
fn good_until(began: Uptime, max_age: Option<Duration>) -> u64 {
    let Some(max_age) = max_age else {
        return ALWAYS;
    };
    let age = u64::try_from(max_age.as_nanos()).unwrap_or(ALWAYS);
    let began = u64::try_from(began.nanoseconds()).unwrap_or(0);
    began.saturating_add(age).max(FAILED.saturating_add(1))
}

fn now() -> u64 {
    u64::try_from(Uptime::now().nanoseconds()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Reason;
    use crate::verification::Findings;
    use crate::{AuditTrail, TrailKey};
    use vram_trail::Seq;

    const MAX_AGE: Duration = Duration::from_secs(60);

    /// Returns a check that began the given time ago and has this number.
    fn check(age: Duration, seq: u64) -> LastCheck {
        let age = i64::try_from(age.as_nanos()).unwrap();
        LastCheck {
            mark: Mark {
                seq: Some(Seq::new(seq)),
                time: Time::now(),
            },
            began: Uptime::from_nanoseconds(Uptime::now().nanoseconds() - age),
        }
    }

    fn standing(trail: &AuditTrail, check: LastCheck) -> Standing {
        Standing::new(
            trail.recorder(),
            Subject::new("s".parse().unwrap(), 0, "host".into()),
            check,
            check.after(History::default()),
            Some(MAX_AGE),
        )
    }

    /// Returns which checks are recorded as overdue.
    fn overdue(trail: &AuditTrail, dir: &std::path::Path) -> Vec<u64> {
        trail.flush().unwrap();
        let text = std::fs::read_to_string(dir.join("000000.jsonl")).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|record| record["event"] == "VerificationOverdue")
            .map(|record| record["last_verified_seq"].as_u64().unwrap())
            .collect()
    }

    /// With any number of shared shards, none looks as if its check had failed.
    #[test]
    #[cfg_attr(miri, ignore = "opens a trail: the kernel and the C library")]
    fn as_many_shards_as_one_likes_have_standings_of_their_own() {
        const MANY: usize = (1 << 20) + 8;
        let temp = tempfile::tempdir().unwrap();
        let key = TrailKey::open_or_create(temp.path().join("key.pem")).unwrap();
        let trail =
            AuditTrail::builder("worker-1".parse().unwrap(), temp.path().join("trail"), key)
                .open_or_create()
                .unwrap();
        let recorder = trail.recorder();
        let subject = Subject::new("s".parse().unwrap(), 0, "host".into());
        let check = check(Duration::ZERO, 1);
        let mut all = Vec::with_capacity(MANY);
        for _ in 0..MANY {
            let (recorder, subject) = (recorder.clone(), subject.clone());
            all.push(Standing::new(
                recorder,
                subject,
                check,
                History::default(),
                None,
            ));
        }
        let last = all.last().unwrap();
        assert_eq!(last.judge(), Ok(()));
        let (recorder, subject) = (trail.recorder(), last.subject.clone());
        let open = OpenVerification::begin(
            &recorder,
            Assurance::Queued,
            subject,
            "check",
            History::default(),
            false,
        );
        last.revoke(&open.broken(Reason::Interrupted, Findings::default()));
        assert_eq!(last.judge(), Err(Revoked::Failed));
        last.pass(self::check(Duration::ZERO, 2));
        assert_eq!(last.judge(), Err(Revoked::Failed), "for good");
        assert!(
            all.iter()
                .rev()
                .skip(1)
                .all(|standing| standing.judge().is_ok())
        );
    }

    /// A thread finds that leases have run out. Before it can record that, a check passes.
    #[test]
    #[cfg_attr(miri, ignore = "opens a trail: the kernel and the C library")]
    fn a_check_that_passes_meanwhile_is_not_called_overdue_and_is_once_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("trail");
        let key = TrailKey::open_or_create(temp.path().join("key.pem")).unwrap();
        let trail = AuditTrail::builder("worker-1".parse().unwrap(), &dir, key)
            .open_or_create()
            .unwrap();
        let standing = standing(&trail, check(MAX_AGE * 3, 1));
        assert_eq!(standing.judge(), Err(Revoked::Overdue));
        standing.pass(check(Duration::ZERO, 2));
        assert_eq!(standing.record_overdue(), Ok(()));
        assert!(overdue(&trail, &dir).is_empty());

        // The check that passed last began long ago, so its own limit is over at once.
        let standing = self::standing(&trail, check(MAX_AGE * 3, 3));
        assert_eq!(standing.judge(), Err(Revoked::Overdue));
        standing.pass(check(MAX_AGE * 2, 4));
        for _ in 0..2 {
            assert_eq!(standing.judge_on_record(), Err(Revoked::Overdue));
        }
        standing.pass(check(MAX_AGE * 4, 5));
        assert_eq!(standing.judge_on_record(), Err(Revoked::Overdue));
        assert_eq!(overdue(&trail, &dir), [4]);
    }
}
