//! What a manager says of its device: which one it is and where its memory lies, and that it is lost.
//!
//! A device that is lost is so for the whole process. Whoever notices it first tells every shared shard on
//! it, whichever manager or trail it belongs to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Home;
use crate::audit::event::{By, Event, Reason, Subject, Violation};
use crate::audit::guard::{Findings, OpenVerification, Served};
use crate::device::Device;
use crate::error::BuildError;
use crate::process;

/// The shared shards of this process.
static SERVED: Mutex<Vec<Weak<dyn Served>>> = Mutex::new(Vec::new());

impl<D: Device> Home<D> {
    /// Puts the device on record; one whose memory may be elsewhere is refused.
    pub(super) fn announce_device(&self) -> Result<(), BuildError> {
        let Some(residency) = self.device.residency() else {
            return Ok(());
        };
        if let Some(cause) = residency.refused {
            let record = self.record_violation(violation_of_residency(&cause));
            return Err(BuildError::NotResident { cause, record });
        }
        self.recorder.emit(Event::DeviceOpened {
            device: Arc::clone(&self.device_name),
            identity: self.device.identity().into(),
            proven: residency.proven.into(),
            unproven: residency.unproven.into(),
        });
        Ok(())
    }

    /// If the device is lost, it takes all its shards along. That is recorded, once for each, and no
    /// lease of theirs is current any more. `own` is left out: its operation has failed in a way that
    /// ends in an incident of its own, after which its leases end.
    pub(crate) fn notice_loss(&self, own: Option<&Subject>) {
        let Some(cause) = self.device.lost() else {
            return;
        };
        if process::check().is_err() {
            return;
        }
        for subject in self.recorder.take_lost(&self.device_name, own) {
            self.recorder.emit(Event::DeviceFailed {
                subject,
                operation: "serve",
                cause: (&cause).into(),
            });
        }
        let is_own = |subject: &Subject| own.is_some_and(|own| own.is(subject));
        let lost: Vec<_> = served()
            .extract_if(.., |entry| {
                entry.upgrade().is_some_and(|entry| {
                    entry.subject().device == self.device_name && !is_own(entry.subject())
                })
            })
            .filter_map(|entry| entry.upgrade())
            .collect();
        // If a trail cannot write, that is on record elsewhere, and serving from a lost device ends all the
        // same.
        let open = lost.into_iter().filter_map(|served| served.open("serve"));
        let fail =
            |open: OpenVerification| open.fail(Reason::DeviceError, Findings::of_device(&cause));
        let failing: Vec<_> = open.map(fail).collect();
        drop(failing);
    }

    /// Asks for a shared shard to be told when the device is lost; it may be so already.
    pub(crate) fn watch_for_loss(&self, shard: Weak<dyn Served>) {
        // In a child the lock may be held for ever, and no lease is good.
        if process::check().is_err() {
            return;
        }
        let mut list = served();
        if list.len() == list.capacity() {
            list.retain(|entry| entry.strong_count() > 0);
        }
        list.push(shard);
        drop(list);
        self.notice_loss(None);
    }
}

fn served() -> MutexGuard<'static, Vec<Weak<dyn Served>>> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn violation_of_residency(cause: &Arc<str>) -> Violation {
    Violation {
        by: By::Library,
        shard: None,
        policy: "shards lie in the device's own memory".into(),
        violation: "it cannot be said that they do".into(),
        details: cause.into(),
        action: "refused".into(),
    }
}
