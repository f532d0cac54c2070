//! The manager's records about its device: its identity and residency at the start, and its loss.
//!
//! A lost device is lost for the whole process. The first manager that notices the loss ends the
//! leases of every shared shard on the device, of any manager or trail. This module does not know
//! how a device finds out that it is lost.

use std::sync::Arc;

use vram_trail::process;

use super::Home;
use crate::device::Device;
use crate::error::BuildError;
use crate::event::{Event, Reason, Subject, Violation};
use crate::registry::Registry;
use crate::verification::{Findings, OpenVerification};

impl<D: Device> Home<D> {
    /// Records the device, or refuses it if its memory may lie elsewhere.
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

    /// If the device is lost, records that once for each of its shards, and ends their leases.
    ///
    /// `own` is left out: its operation failed in a way that ends in an incident of its own, which
    /// ends its leases.
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
        // A trail that cannot write is recorded elsewhere, and serving from a lost device ends in
        // any case.
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
