//! A record that was late. Its caller was told that it was not durable yet, and can ask again: the answer is
//! the receipt once there is one, and never for a record that was refused.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::support::{Place, VIOLATION, filled, manager, of_event, sealed};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    Anchor, AnchorError, Checkpoint, Incident, NotDurable, Receipt, RecordError, Seq,
};
use vram_residency::error::{SealError, VerifyError};
use vram_residency::{
    AuditTrail, Host, Provenance, Shard, VramManager, WorkerToken, shard::Sealed,
};

/// A trail whose critical records are waited for so long, and a sealed shard.
fn worker(
    place: &Place,
    deadline: Duration,
) -> (
    AuditTrail,
    VramManager<Host>,
    Shard<Sealed, Host>,
    StorageFaults,
) {
    let (builder, faults) = place.faulty();
    let trail = builder
        .queue_records(16)
        .critical_deadline(deadline)
        .open_or_create()
        .unwrap();
    let manager = manager(&trail);
    let shard = sealed(&manager, "s", 5000);
    (trail, manager, shard, faults)
}

fn fail(shard: Shard<Sealed, Host>) -> Box<Incident> {
    shard.dangerous_flip_bit(0, 0).unwrap();
    let VerifyError::Broken(broken) = shard.verify().unwrap_err() else {
        panic!("missed");
    };
    broken.into_parts().0
}

/// The answer that comes within seconds of the disk's being well.
#[track_caller]
fn in_time(mut ask: impl FnMut() -> Result<Receipt, NotDurable>) -> Receipt {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(receipt) => return receipt,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// On the medium is a record of this event with the receipt's number, under a checkpoint as large as its.
#[track_caller]
fn is_on_disk(place: &Place, event: &str, receipt: &Receipt) {
    let found = of_event(&place.records(), event);
    let seq = receipt.seq().value();
    assert!(found.iter().any(|record| record["seq"] == seq), "{found:?}");
    assert!(receipt.checkpoint().size() > seq);
}

/// The fields of an error can be filled by anybody; a receipt is for the record that the trail has queued.
#[test]
fn an_error_filled_with_another_number_has_no_receipt_for_that() {
    let place = Place::new();
    let (trail, manager, shard, faults) = worker(&place, Duration::from_millis(200));
    trail.flush().unwrap();
    faults.hang();
    let RecordError::NotDurable(late) = trail.policy_violation(VIOLATION).unwrap_err() else {
        panic!("it has no deadline");
    };
    let NotDurable::DeadlineExceeded { seq, record, .. } = late else {
        panic!("{late}");
    };
    faults.heal();
    let forged = NotDurable::NotAwaited {
        seq: Seq::new(0),
        record,
    };
    assert_eq!(in_time(|| forged.ask_again()).seq(), seq);
    drop((shard, manager));
    trail.close().unwrap();
}

#[test]
fn an_incident_that_was_late_has_its_receipt_once_the_disk_answers() {
    let place = Place::new();
    let (trail, manager, shard, faults) = worker(&place, Duration::from_millis(200));
    trail.flush().unwrap();
    faults.hang();
    let incident = fail(shard);
    for _ in 0..2 {
        let late = incident.record().unwrap_err();
        assert!(
            matches!(late, NotDurable::DeadlineExceeded { .. }),
            "{late}"
        );
    }
    assert!(incident.to_string().contains("NOT durable"), "{incident}");
    faults.heal();
    let receipt = in_time(|| incident.record().cloned().map_err(Clone::clone));
    assert_eq!(Some(receipt.seq()), incident.seq());
    is_on_disk(&place, "SealVerificationFailed", &receipt);
    let words = incident.to_string();
    assert!(words.contains("(durable as record"), "{words}");

    // Whoever keeps the incident keeps neither the trail open nor its writer alive.
    drop((trail, manager));
    assert_eq!(of_event(&place.records(), "TrailClosed").len(), 1);
    assert_eq!(incident.record().unwrap().seq(), receipt.seq());
}

#[test]
fn a_refusal_and_a_violation_whose_writing_failed_have_their_receipts_later() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let manager = VramManager::builder(Host::new(), &WorkerToken::generate().unwrap(), &trail)
        .require_pinned()
        .build()
        .unwrap();
    let shard = filled(&manager, "s", 5000);
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    let refused = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    let SealError::Unpinned {
        record: Err(refused),
        ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    let Err(RecordError::NotDurable(violation)) = trail.policy_violation(VIOLATION) else {
        panic!("a record without a disk");
    };
    for error in [refused, &violation] {
        let again = error.ask_again().unwrap_err();
        assert!(matches!(again, NotDurable::WriteFailed { .. }), "{again}");
    }
    faults.heal();
    for error in [refused, &violation] {
        let receipt = in_time(|| error.ask_again());
        is_on_disk(&place, "PolicyViolation", &receipt);
    }
}

#[test]
fn a_refused_incident_has_no_receipt_although_later_numbers_are_durable() {
    let place = Place::new();
    let (trail, _manager, shard, faults) = worker(&place, Duration::from_millis(2));
    while trail.backlog().records > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    faults.hang();
    let mut tries = 0;
    while !matches!(
        trail.policy_violation(VIOLATION),
        Err(RecordError::NotDurable(NotDurable::QueueFull { .. }))
    ) {
        tries += 1;
        assert!(tries < 5000, "there is always room");
    }
    let incident = fail(shard);
    let seq = incident.seq().expect("accounted for by its number");
    faults.heal();
    let started = Instant::now();
    let explained = loop {
        let lost = of_event(&place.records(), "RecordsLost");
        let explained = lost
            .iter()
            .any(|lost| lost["last"].as_u64() >= Some(seq.value()));
        if explained || started.elapsed() > Duration::from_secs(20) {
            break explained;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(explained, "its number is not below the durable end");
    let still = incident.record().unwrap_err();
    assert!(matches!(still, NotDurable::QueueFull { .. }), "{still}");
}

#[test]
fn a_record_that_the_writer_gave_up_is_not_said_to_be_tried_again() {
    let place = Place::new();
    let (trail, _manager, shard, faults) = worker(&place, Duration::from_millis(500));
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    let incident = fail(shard);
    let before = incident.record().unwrap_err();
    assert!(before.to_string().contains("tried again"), "{before}");
    trail.close().unwrap_err();
    let after = incident.record().unwrap_err();
    assert!(matches!(after, NotDurable::WriterStopped), "{after}");
}

/// Records a violation with the first checkpoint that it is given.
struct Recording {
    trail: std::sync::mpsc::Receiver<AuditTrail>,
    told: Sender<(AuditTrail, RecordError)>,
    done: bool,
}

impl Anchor for Recording {
    fn name(&self) -> &str {
        "recording"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        if !std::mem::replace(&mut self.done, true) {
            let trail = self.trail.recv().unwrap();
            let error = trail.policy_violation(VIOLATION).unwrap_err();
            self.told.send((trail, error)).unwrap();
        }
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

#[test]
fn what_an_anchor_recorded_without_waiting_can_be_asked_for_later() {
    let place = Place::new();
    let ((give, given), (tell, told)) = (channel(), channel());
    let trail = place
        .builder()
        .anchor(Recording {
            trail: given,
            told: tell,
            done: false,
        })
        .open_or_create()
        .unwrap();
    give.send(trail).unwrap();
    let (trail, error) = told.recv().unwrap();
    let RecordError::NotDurable(error @ NotDurable::NotAwaited { .. }) = error else {
        panic!("{error}");
    };
    let receipt = in_time(|| error.ask_again());
    is_on_disk(&place, "PolicyViolation", &receipt);
    trail.close().unwrap();
}
