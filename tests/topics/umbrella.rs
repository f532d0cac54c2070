//! Errors that give a shard back, converted into the crate's own `Error`: the memory is freed, and what was
//! found is kept.

use std::error::Error as _;

use vram_residency::error::{CheckError, NotSealed, NotVerified, Revoked};
use vram_residency::manager::NewShard;
use vram_residency::shard::Batch;
use vram_residency::{Digest, Error, Provenance};

use crate::backend::Device;
use crate::shards::{Worker, id, model, pattern, recorded_incident, stop};

fn is_freed(worker: &Worker) {
    let capacity = worker.manager.capacity();
    assert_eq!((capacity.used, capacity.live, capacity.leaked), (0, 0, 0));
}

/// Each incident is on record, and names these shards in this order.
fn names(worker: &Worker, error: &Error, shards: &[&str]) {
    let incidents = error.incidents();
    assert_eq!(incidents.len(), shards.len(), "{error:?}");
    for (incident, shard) in incidents.iter().zip(shards) {
        assert_eq!(incident.shard().as_str(), *shard);
        assert!(error.to_string().contains(&incident.to_string()), "{error}");
        recorded_incident(worker, incident);
    }
}

fn batch(worker: &Worker) -> Batch<Device> {
    let wanted = ["one", "two"].map(|name| NewShard::new(id(name), model(), 10));
    worker.manager.allocate_all(wanted).unwrap()
}

#[test]
fn a_shard_without_an_answer_is_freed_and_the_reason_is_kept() {
    let worker = Worker::new();
    let refused = worker.allocated("s", 10).seal(Provenance::UnpinnedFirstUse);
    let unsealed = Error::from(refused.unwrap_err());
    is_freed(&worker);
    let refused = batch(&worker).seal(|_| Provenance::UnpinnedFirstUse);
    let none_sealed = Error::from(refused.unwrap_err());
    is_freed(&worker);
    for (error, name) in [(&unsealed, "s"), (&none_sealed, "one")] {
        let Error::NotSealed { shard, source, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(shard.as_str(), name);
        assert!(matches!(source, NotSealed::Incomplete { .. }));
        assert!(error.source().is_some() && error.incidents().is_empty());
    }

    let sealed = worker.sealed("s", &pattern(10));
    let error = Error::from(sealed.verify_with_progress(stop).unwrap_err());
    is_freed(&worker);
    let Error::NotVerified { shard, source, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(shard.as_str(), "s");
    assert!(matches!(source, NotVerified::Inconclusive(_)));
    assert!(error.source().is_some() && error.incidents().is_empty());
}

#[test]
fn a_shard_that_failed_is_freed_and_its_incident_is_kept() {
    let worker = Worker::new();
    let sealed = worker.sealed("s", &pattern(5000));
    sealed.dangerous_flip_bit(4999, 3).unwrap();
    let error = Error::from(sealed.verify().unwrap_err());
    names(&worker, &error, &["s"]);
    is_freed(&worker);

    let other = Provenance::FsVerity(Digest::of_reader(&b"other"[..]).unwrap());
    let refused = worker.written("s", &pattern(10)).seal(other);
    names(&worker, &Error::from(refused.unwrap_err()), &["s"]);
    is_freed(&worker);

    let mut batch = batch(&worker);
    for mut member in batch.iter_mut() {
        member.write_at(0, &pattern(10)).unwrap();
    }
    let error = Error::from(batch.seal(|_| other).unwrap_err());
    names(&worker, &error, &["one", "two"]);
    is_freed(&worker);
}

#[test]
fn a_shared_shard_is_freed_with_its_last_lease() {
    let worker = Worker::new();
    let shared = worker.verified("s", &pattern(10)).share();
    let lease = shared.lease().unwrap();
    let error = Error::from(shared.reclaim().unwrap_err());
    assert!(matches!(error, Error::Leased));
    assert_eq!(worker.manager.capacity().live, 1);
    drop(lease);
    is_freed(&worker);

    let verified = worker.verified("s", &pattern(10));
    verified.dangerous_flip_bit(9, 0).unwrap();
    let shared = verified.share();
    let error = Error::from(shared.check().unwrap_err());
    assert!(matches!(error, Error::Check(CheckError::Broken { .. })));
    names(&worker, &error, &["s"]);
    let refused = Error::from(shared.lease().unwrap_err());
    assert!(matches!(refused, Error::Revoked(Revoked::Failed)));
    let refused = Error::from(shared.reclaim().unwrap_err());
    assert!(matches!(refused, Error::Revoked(Revoked::Failed)));
    is_freed(&worker);
}
