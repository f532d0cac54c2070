//! What a manager says of its device: which one it is and where its memory lies, and that it is lost.
//!
//! A device that is lost is so for the whole process. Whoever notices it first tells every shared shard on
//! it, whichever manager or trail it belongs to.

use std::sync::Arc;

use vram_trail::process;

use super::Home;
use crate::device::Device;
use crate::error::BuildError;
use crate::event::{Event, Reason, Subject, Violation};
use crate::registry::Registry;
use crate::verification::{Findings, OpenVerification};

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
        let registry = self.recorder.application();
        for subject in registry.take_lost(&self.device_name, own) {
            self.recorder.emit(Event::DeviceFailed {
                subject,
                operation: "serve",
                cause: (&cause).into(),
            });
        }
        let lost = Registry::take_served(&self.device_name, own);
        // If a trail cannot write, that is on record elsewhere, and serving from a lost device ends all the
        // same.
        let open = lost.into_iter().filter_map(|served| served.open("serve"));
        let fail =
            |open: OpenVerification| open.fail(Reason::DeviceError, Findings::of_device(&cause));
        let failing: Vec<_> = open.map(fail).collect();
        drop(failing);
    }
}

pub(super) fn violation_of_residency(cause: &Arc<str>) -> Violation {
    Violation {
        shard: None,
        policy: "shards lie in the device's own memory".into(),
        violation: "it cannot be said that they do".into(),
        details: cause.into(),
        action: "refused".into(),
    }
}
