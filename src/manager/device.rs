//! What a manager says of its device: which one it is and where its memory lies, and that it is lost.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use super::Home;
use crate::audit::event::{Event, Subject, Violation};
use crate::device::Device;
use crate::error::BuildError;

/// A shared shard, as seen by its device.
pub(crate) trait Served: Send + Sync + std::fmt::Debug {
    /// The device is lost, and that is what is to be recorded, unless the shard is `own`.
    fn fail(&self, cause: &Arc<str>, own: &Subject);

    /// From here on no lease is current.
    fn revoke(&self);
}

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
            identity: Arc::clone(self.device.identity()),
            proven: residency.proven,
            unproven: residency.unproven,
        });
        Ok(())
    }

    /// After a failure: if the device is lost, it takes all its shards along. That is recorded, once
    /// for each, and no lease of theirs is current any more; `own`, whose operation failed, has its
    /// own record.
    pub(crate) fn notice_loss(&self, own: &Subject) {
        let Some(cause) = self.device.lost() else {
            return;
        };
        for subject in self.recorder.take_lost(&self.device_name, own) {
            self.recorder.emit(Event::DeviceFailed {
                subject,
                operation: "serve",
                cause: Arc::clone(&cause),
            });
        }
        let served = std::mem::take(&mut *self.served());
        let served: Vec<_> = served.iter().filter_map(Weak::upgrade).collect();
        for served in &served {
            served.fail(&cause, own);
        }
        // The incidents are on record before anybody can see what follows from them. If the trail
        // cannot write, that is on record elsewhere, and serving from a lost device ends all the same.
        let _flushed = self.recorder.flush();
        for served in &served {
            served.revoke();
        }
    }

    /// Asks to be told when the device is lost.
    pub(crate) fn watch_for_loss(&self, served: Weak<dyn Served>) {
        let mut list = self.served();
        list.retain(|entry| entry.strong_count() > 0);
        list.push(served);
    }

    fn served(&self) -> MutexGuard<'_, Vec<Weak<dyn Served>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn violation_of_residency(cause: &Arc<str>) -> Violation {
    Violation {
        shard: None,
        policy: "shards lie in the device's own memory".into(),
        violation: "it cannot be said that they do".into(),
        details: Arc::clone(cause),
        action: "refused".into(),
    }
}
