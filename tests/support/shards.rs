//! What the tests of shards share: a worker with a trail, a device that can fail, and a manager.

use std::ops::ControlFlow;

use serde_json::Value;
use vram_residency::audit::faults::StorageFaults;
use vram_residency::audit::{AuditTrailBuilder, Incident};
use vram_residency::device::Faults;
use vram_residency::digest::Progress;
use vram_residency::error::{SealError, VerifyError};
use vram_residency::manager::VramManagerBuilder;
use vram_residency::shard::{Allocated, Quarantined, Sealed, State, Verified};
use vram_residency::{AuditTrail, ModelRef, Provenance, Shard, ShardId, VramManager, WorkerToken};

use crate::backend::{Device, device_with};
use crate::support::{Place, of_event};

pub const WINDOW: u64 = 524_288;

/// A worker on host memory. Its device and its disk fail when told to.
pub struct Worker {
    pub place: Place,
    pub trail: AuditTrail,
    pub disk: StorageFaults,
    pub faults: Faults,
    pub manager: VramManager<Device>,
}

impl Worker {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with(
        options: impl FnOnce(VramManagerBuilder<Device>) -> VramManagerBuilder<Device>,
    ) -> Self {
        Self::with_trail(|builder| builder, options)
    }

    pub fn with_trail(
        trail: impl FnOnce(AuditTrailBuilder) -> AuditTrailBuilder,
        options: impl FnOnce(VramManagerBuilder<Device>) -> VramManagerBuilder<Device>,
    ) -> Self {
        let faults = Faults::dangerous_new();
        Self::made_of(device_with(faults.clone()), faults, trail, options)
    }

    /// On a device of the test's own, without faults.
    pub fn on(
        device: Device,
        options: impl FnOnce(VramManagerBuilder<Device>) -> VramManagerBuilder<Device>,
    ) -> Self {
        Self::made_of(device, Faults::dangerous_new(), |builder| builder, options)
    }

    fn made_of(
        device: Device,
        faults: Faults,
        trail: impl FnOnce(AuditTrailBuilder) -> AuditTrailBuilder,
        options: impl FnOnce(VramManagerBuilder<Device>) -> VramManagerBuilder<Device>,
    ) -> Self {
        let place = Place::new();
        let disk = StorageFaults::dangerous_new();
        let trail = trail(place.builder())
            .dangerous_storage_faults(disk.clone())
            .open_or_create()
            .unwrap();
        let token = WorkerToken::generate().unwrap();
        let manager = options(VramManager::builder(device, &token, &trail))
            .build()
            .unwrap();
        Self {
            place,
            trail,
            disk,
            faults,
            manager,
        }
    }

    pub fn allocated(&self, id: &str, len: u64) -> Shard<Allocated, Device> {
        self.manager.allocate(self::id(id), model(), len).unwrap()
    }

    pub fn written(&self, id: &str, bytes: &[u8]) -> Shard<Allocated, Device> {
        let mut shard = self.allocated(id, bytes.len() as u64);
        shard.write_at(0, bytes).unwrap();
        shard
    }

    pub fn sealed(&self, id: &str, bytes: &[u8]) -> Shard<Sealed, Device> {
        let shard = self.written(id, bytes);
        shard.seal(Provenance::UnpinnedFirstUse).unwrap()
    }

    pub fn verified(&self, id: &str, bytes: &[u8]) -> Shard<Verified, Device> {
        self.sealed(id, bytes).verify().unwrap()
    }

    /// What is on disk by now of one event.
    pub fn on_disk(&self, event: &str) -> Vec<Value> {
        of_event(&self.place.records(), event)
    }

    /// Everything recorded so far, of one event.
    pub fn recorded(&self, event: &str) -> Vec<Value> {
        self.trail.flush().unwrap();
        self.on_disk(event)
    }

    /// Closes everything, and returns what was recorded.
    pub fn close(self) -> Vec<Value> {
        self.manager.close().unwrap();
        self.trail.close().unwrap();
        self.place.records()
    }
}

pub fn id(text: &str) -> ShardId {
    text.parse().unwrap()
}

pub fn model() -> ModelRef {
    ModelRef::new("org/model:v1", 1, 3).unwrap()
}

/// The data of the fs-verity test vectors.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i % 11 + i % 439 + i % 1103) % 256) as u8)
        .collect()
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(end)) >> 64) as u64
    }
}

/// Places to flip a bit at: the first bytes, the last, those around windows' borders, the tail, and
/// random ones.
pub fn places(len: u64, count: usize) -> Vec<(u64, u8)> {
    let mut numbers = Numbers(0x5eed);
    let borders = [
        0,
        1,
        WINDOW - 1,
        WINDOW,
        len / WINDOW * WINDOW,
        len - 2,
        len - 1,
    ];
    let mut places: Vec<(u64, u8)> = borders
        .iter()
        .filter(|offset| **offset < len)
        .flat_map(|offset| [(*offset, 0), (*offset, 7)])
        .collect();
    while places.len() < count {
        places.push((numbers.below(len), numbers.below(8) as u8));
    }
    places
}

pub fn stop(_: Progress) -> ControlFlow<()> {
    ControlFlow::Break(())
}
/// Takes a failed verification apart, and checks what holds for every one: the record is durable and
/// on disk by now, and says what the incident says.
pub fn broken(
    worker: &Worker,
    error: VerifyError<Device>,
) -> (Value, Box<Shard<Quarantined, Device>>) {
    let VerifyError::Broken(broken) = error else {
        panic!("{error:?}")
    };
    let (incident, shard) = broken.into_parts();
    let record = recorded_incident(worker, &incident);
    assert_eq!(shard.handle_json()["state"], "quarantined");
    (record, shard)
}

pub fn broken_seal(
    worker: &Worker,
    error: SealError<Device>,
) -> (Value, Box<Shard<Quarantined, Device>>) {
    let SealError::Broken(broken) = error else {
        panic!("{error:?}")
    };
    let (incident, shard) = broken.into_parts();
    (recorded_incident(worker, &incident), shard)
}

pub fn recorded_incident(worker: &Worker, incident: &Incident) -> Value {
    let receipt = incident.record().unwrap();
    assert_eq!(Some(receipt.seq()), incident.seq());
    assert!(receipt.checkpoint().size() > 0);
    let records = worker.on_disk("SealVerificationFailed");
    let record = records
        .iter()
        .find(|record| record["seq"] == receipt.seq().value())
        .expect("the record is on disk before the error is returned");
    assert_eq!(record["severity"], "CRITICAL");
    assert_eq!(record["reason"], incident.reason().to_string());
    assert_eq!(record["shard"], incident.shard().as_str());
    assert_eq!(record["allocation"], incident.allocation());
    assert_eq!(record["expected"].as_str(), incident.expected().as_deref());
    assert_eq!(record["actual"].as_str(), incident.actual().as_deref());
    assert_eq!(record["injected"] == true, incident.is_injected());
    let words = incident.to_string();
    let detail = incident.detail().map(str::to_owned);
    for known in [incident.expected(), incident.actual(), detail] {
        let known = known.unwrap_or_default();
        assert!(words.contains(&known), "{words} without {known}");
    }
    record.clone()
}

pub trait HandleJson {
    fn handle_json(&self) -> Value;
}

impl<S: State> HandleJson for Shard<S, Device> {
    fn handle_json(&self) -> Value {
        serde_json::to_value(self.handle()).unwrap()
    }
}
