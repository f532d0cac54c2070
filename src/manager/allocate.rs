//! Allocation, for one shard or for many that will be sealed together.
//!
//! Bytes within the limit and a name are reserved first. A dropped reservation returns both, unless
//! it became a region; then the region returns them at its end. This module does not know how a
//! shard is filled or sealed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vram_trail::process;

use super::device::violation_of_residency;
use super::{Assurance, Home, NewShard};
use crate::device::backend::Permit;
use crate::device::{Available, Device, DeviceError};
use crate::error::{AllocateAllError, AllocateError};
use crate::event::{Event, Subject};
use crate::id::{ModelRef, ShardId};
use crate::shard::{Allocated, Batch, Region, Shard};

/// Reserved bytes and a reserved name.
struct Reservation<D: Device> {
    home: Arc<Home<D>>,
    subject: Subject,
    len: u64,
    is_used: bool,
}

/// The reason why a reservation failed.
enum Unreserved {
    DuplicateId(ShardId),
    NoRoom,
}

impl<D: Device> Home<D> {
    pub(super) fn allocate(
        self: &Arc<Self>,
        id: &ShardId,
        model: ModelRef,
        len: u64,
    ) -> Result<Shard<Allocated, D>, AllocateError> {
        self.try_allocate(id, model, len)
            .inspect_err(|error| self.record_failed_allocation(id, len, error))
    }

    fn try_allocate(
        self: &Arc<Self>,
        id: &ShardId,
        model: ModelRef,
        len: u64,
    ) -> Result<Shard<Allocated, D>, AllocateError> {
        self.check_len(len)?;
        let reservation = self
            .reserve(id, len)
            .map_err(|unreserved| self.explain(unreserved, len))?;
        let given = self
            .strike()
            .and_then(|()| self.device.allocate(len, Permit::mint()));
        match given {
            Ok(memory) => {
                let region = reservation.used_for(memory);
                self.put_on_record(region, model, self.capacity_on_record())
            }
            Err(error) => {
                drop(reservation);
                Err(self.refused(error))
            }
        }
    }

    pub(super) fn allocate_all(
        self: &Arc<Self>,
        wanted: Vec<NewShard>,
    ) -> Result<Batch<D>, AllocateAllError> {
        // Check all limits before the first reservation: the request itself must not count as used.
        for NewShard { id, len, .. } in &wanted {
            let checked = self.check_len(*len);
            checked.map_err(|source| self.not_all(id.clone(), *len, source))?;
        }
        let total = wanted.iter().map(|shard| shard.len);
        let total = total.fold(0, u64::saturating_add);
        let mut reserved = Vec::with_capacity(wanted.len());
        for NewShard { id, model, len } in wanted {
            match self.reserve(&id, len) {
                Ok(reservation) => reserved.push((len, (reservation, model))),
                Err(unreserved) => {
                    drop(reserved);
                    let source = self.explain(unreserved, total);
                    return Err(self.not_all(id, len, source));
                }
            }
        }
        let given = self.each_struck(reserved).and_then(|reserved| {
            let permit = Permit::mint();
            self.device.allocate_all(reserved, permit)
        });
        let given = given.map_err(|((reservation, _), error)| {
            let (shard, len) = (reservation.subject.shard.clone(), reservation.len);
            drop(reservation);
            self.not_all(shard, len, self.refused(error))
        })?;
        let capacity = self.capacity_on_record();
        let mut shards = Vec::with_capacity(given.len());
        for (memory, (reservation, model)) in given {
            let shard = reservation.subject.shard.clone();
            let len = reservation.len;
            match self.put_on_record(reservation.used_for(memory), model, capacity) {
                Ok(allocated) => shards.push(allocated),
                Err(source) => return Err(self.not_all(shard, len, source)),
            }
        }
        Ok(Batch::new(shards))
    }

    fn not_all(&self, shard: ShardId, len: u64, source: AllocateError) -> AllocateAllError {
        self.record_failed_allocation(&shard, len, &source);
        AllocateAllError { shard, source }
    }

    fn check_len(&self, len: u64) -> Result<(), AllocateError> {
        process::check()?;
        if len == 0 {
            return Err(AllocateError::ZeroLength);
        }
        if len > self.options.shard_limit {
            return Err(AllocateError::TooLarge {
                requested: len,
                limit: self.options.shard_limit,
                available: self.capacity().available,
            });
        }
        Ok(())
    }

    fn reserve(self: &Arc<Self>, id: &ShardId, len: u64) -> Result<Reservation<D>, Unreserved> {
        let subject = self
            .recorder
            .application()
            .admit(id, &self.device_name, len)
            .ok_or_else(|| Unreserved::DuplicateId(id.clone()))?;
        if !self.account.take(len) {
            self.recorder.application().retire(&subject);
            return Err(Unreserved::NoRoom);
        }
        Ok(Reservation {
            home: Arc::clone(self),
            subject,
            len,
            is_used: false,
        })
    }

    /// Converts into an error. `needed` is the request in bytes, of which nothing is reserved.
    fn explain(&self, unreserved: Unreserved, needed: u64) -> AllocateError {
        match unreserved {
            Unreserved::DuplicateId(id) => AllocateError::DuplicateId { id },
            Unreserved::NoRoom => {
                let used = self.account.used.load(Ordering::Acquire);
                let Available { bytes, bound, .. } = self.available_beside(used);
                AllocateError::NoRoom {
                    needed,
                    available: bytes,
                    bound,
                }
            }
        }
    }

    /// Lets an armed fault strike before the call to the device.
    fn strike(&self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        if let Some(faults) = self.device.faults() {
            let _not_a_write = faults.strike(crate::device::Operation::Allocate)?;
        }
        Ok(())
    }

    /// Does the same for each of many, and returns only the struck one.
    fn each_struck<T>(&self, mut all: Vec<(u64, T)>) -> Result<Vec<(u64, T)>, (T, DeviceError)> {
        for index in 0..all.len() {
            if let Err(error) = self.strike() {
                return Err((all.swap_remove(index).1, error));
            }
        }
        Ok(all)
    }

    /// Converts the device's refusal into an error.
    ///
    /// The caller has dropped the reservation before, so that it does not count among the shards
    /// lost with a device.
    fn refused(&self, error: DeviceError) -> AllocateError {
        if let DeviceError::NotResident { cause } = &error {
            // The refusal stands even if its record is not durable.
            let _recorded = self.record_violation(violation_of_residency(cause));
        }
        self.notice_loss(None);
        AllocateError::from(error)
    }

    /// Returns the used and the available bytes, once for all shards of a batch.
    fn capacity_on_record(&self) -> (u64, Option<u64>) {
        let used = self.account.used.load(Ordering::Acquire);
        (used, self.available_beside(used).on_record())
    }

    /// Records the allocation. On failure, the region's destructor undoes the allocation.
    fn put_on_record(
        &self,
        region: Region<D>,
        model: ModelRef,
        (used_bytes, available_bytes): (u64, Option<u64>),
    ) -> Result<Shard<Allocated, D>, AllocateError> {
        let event = Event::VramAllocated {
            subject: region.subject().clone(),
            model: model.clone(),
            requested_bytes: region.len(),
            allocated_bytes: region.facts().allocated,
            available_bytes,
            used_bytes,
            memory_locked: region.facts().locked,
            dumpable: region.facts().dumpable,
        };
        match self.options.assurance {
            Assurance::Durable => {
                let (_, outcome) = self.recorder.commit(event);
                outcome.map_err(AllocateError::Unrecorded)?;
            }
            Assurance::Queued => {
                self.recorder.emit(event);
            }
        }
        Ok(Shard::allocated(region, model))
    }

    fn record_failed_allocation(&self, shard: &ShardId, len: u64, error: &AllocateError) {
        let available_bytes = match error {
            // A forked child can do nothing. An unrecorded shard was allocated, which the trail
            // shows.
            AllocateError::Forked(_) | AllocateError::Unrecorded(_) => return,
            AllocateError::NoRoom {
                available, bound, ..
            } => Available {
                bytes: *available,
                bound: *bound,
            }
            .on_record(),
            _ => self
                .available_beside(self.account.used.load(Ordering::Acquire))
                .on_record(),
        };
        self.recorder.emit(Event::VramAllocationFailed {
            shard: shard.clone(),
            device: Arc::clone(&self.device_name),
            requested_bytes: len,
            available_bytes,
            reason: error.to_string().into(),
        });
    }
}

impl<D: Device> Reservation<D> {
    fn used_for(mut self, memory: D::Memory) -> Region<D> {
        self.is_used = true;
        let home = Arc::clone(&self.home);
        Region::new(home, memory, self.subject.clone(), self.len)
    }
}

impl<D: Device> Drop for Reservation<D> {
    fn drop(&mut self) {
        if !self.is_used {
            self.home.account.give_back(self.len);
            self.home.recorder.application().retire(&self.subject);
        }
    }
}
