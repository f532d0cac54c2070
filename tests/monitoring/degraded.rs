//! A trail that loses more than it may: it records that, and calls the user's hook on a thread of its
//! own, once for each crossing, whatever that hook does.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::support::{self, Place, of_event};
use vram_residency::AuditTrail;
use vram_residency::audit::OpenError;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::health::Degradation;

/// Longer than any machine needs.
const SOON: Duration = Duration::from_secs(20);

/// A second in which nothing comes.
const QUIET: Duration = Duration::from_secs(1);

/// The disk is full, and most of these are lost. How many were tried, and how many were lost.
fn lose(trail: &AuditTrail, faults: &StorageFaults) -> (u64, u64) {
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    for _ in 0..50 {
        let _lost_or_not = trail.note("one of too many");
    }
    let counts = trail.counts();
    (counts.attempts, counts.failures)
}

/// A hook that hands over what it was told, and on which thread.
fn told() -> (
    impl FnMut(&Degradation) + Send + 'static,
    Receiver<(Degradation, String)>,
) {
    let (tell, told) = channel();
    let hook = move |crossing: &Degradation| {
        let thread = std::thread::current().name().unwrap_or("").to_owned();
        tell.send((*crossing, thread)).unwrap();
    };
    (hook, told)
}

#[test]
fn the_hook_is_called_once_for_each_crossing_while_nothing_can_be_written() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (hook, told) = told();
    let trail = builder
        .queue_records(16)
        .failure_window(Duration::from_secs(2))
        .on_degraded(hook)
        .open_or_create()
        .unwrap();
    for round in 0..2 {
        let began = Instant::now();
        let before = trail.counts();
        let (attempts, failures) = lose(&trail, &faults);
        let (crossing, thread) = told.recv_timeout(SOON).unwrap();
        assert_eq!(thread, "vram-audit-hook");
        assert!(crossing.degraded);
        assert_eq!(crossing.window, Duration::from_secs(2));
        // The writer may have looked while they were being lost.
        assert!(crossing.attempts <= attempts - before.attempts);
        assert!(crossing.failures <= failures - before.failures);
        assert!(crossing.failures * 100 > crossing.attempts);

        let (crossing, _) = told.recv_timeout(SOON).unwrap();
        assert!(!crossing.degraded, "round {round}");
        assert!(began.elapsed() >= Duration::from_secs(2));
        assert_eq!(told.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout));
        faults.heal();
        trail.flush().unwrap();
    }
    trail.close().unwrap();
    assert_eq!(
        told.try_recv().unwrap_err().to_string(),
        "receiving on a closed channel"
    );

    let recorded = of_event(&place.records(), "AuditDegraded");
    let recorded: Vec<_> = recorded
        .iter()
        .map(|record| {
            assert_eq!(record["window_s"], 2);
            let degraded = record["degraded"].as_bool().unwrap();
            let severity = record["severity"].as_str().unwrap().to_owned();
            (degraded, severity)
        })
        .collect();
    let (began, ended) = ((true, "CRITICAL".into()), (false, "INFO".into()));
    assert_eq!(recorded, [began.clone(), ended.clone(), began, ended]);
}

#[test]
fn a_hook_that_panics_is_called_again() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (mut hook, told) = told();
    let trail = builder
        .queue_records(16)
        .failure_window(Duration::from_secs(1))
        .on_degraded(move |crossing| {
            hook(crossing);
            assert!(!crossing.degraded, "the hook's own trouble");
        })
        .open_or_create()
        .unwrap();
    lose(&trail, &faults);
    for degraded in [true, false] {
        assert_eq!(told.recv_timeout(SOON).unwrap().0.degraded, degraded);
    }
    faults.heal();
    trail.close().unwrap();
}

#[test]
fn a_hook_that_hangs_delays_nothing_but_closing_and_that_to_the_deadline() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (mut hook, told) = told();
    let (release, released) = channel::<()>();
    let deadline = Duration::from_secs(3);
    let trail = builder
        .queue_records(16)
        .failure_window(Duration::from_secs(1))
        .critical_deadline(deadline)
        .on_degraded(move |crossing| {
            hook(crossing);
            let _released = released.recv();
        })
        .open_or_create()
        .unwrap();
    lose(&trail, &faults);
    assert!(told.recv_timeout(SOON).unwrap().0.degraded);
    faults.heal();
    trail.policy_violation(support::VIOLATION).unwrap();
    let began = Instant::now();
    trail.close().unwrap();
    let waited = began.elapsed();
    assert!(waited >= deadline, "{waited:?}");
    assert!(waited < deadline + SOON, "{waited:?}");
    // It goes on by itself, and ends.
    drop(release);
    while told.recv_timeout(SOON).is_ok() {}
    assert!(told.try_recv().is_err());
}

#[test]
fn closing_waits_until_the_hook_has_been_told() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (mut hook, told) = told();
    let (entered, hook_entered) = channel();
    let trail = builder
        .queue_records(16)
        .on_degraded(move |crossing| {
            entered.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            hook(crossing);
        })
        .open_or_create()
        .unwrap();
    lose(&trail, &faults);
    hook_entered.recv_timeout(SOON).unwrap();
    faults.heal();
    trail.close().unwrap();
    assert!(told.try_recv().unwrap().0.degraded);
}

#[test]
fn losses_right_before_closing_are_told_and_recorded() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (hook, told) = told();
    let trail = builder
        .queue_records(16)
        .durable_within(Duration::from_secs(3600))
        .on_degraded(hook)
        .open_or_create()
        .unwrap();
    // The first tick is over when a critical record is durable.
    trail.policy_violation(support::VIOLATION).unwrap();
    lose(&trail, &faults);
    faults.heal();
    trail.close().unwrap();
    assert!(told.try_recv().unwrap().0.degraded);
    assert_eq!(of_event(&place.records(), "AuditDegraded").len(), 1);
}

#[test]
fn a_trail_that_may_take_an_hour_to_write_alarms_within_seconds() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let (hook, told) = told();
    let trail = builder
        .queue_records(16)
        .durable_within(Duration::from_secs(3600))
        .on_degraded(hook)
        .open_or_create()
        .unwrap();
    trail.policy_violation(support::VIOLATION).unwrap();
    lose(&trail, &faults);
    assert!(told.recv_timeout(SOON).unwrap().0.degraded);
    faults.heal();
    trail.close().unwrap();
}

#[test]
fn the_threshold_is_the_one_that_was_set() {
    for (threshold, expected) in [(0, true), (9, true), (10, false), (11, false)] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let (hook, told) = told();
        let trail = builder
            .queue_records(990)
            .failure_threshold_per_mille(threshold)
            .on_degraded(hook)
            .open_or_create()
            .unwrap();
        // 990 find room while the disk hangs.
        faults.hang();
        for _ in 0..1000 {
            let _lost_or_not = trail.note("one of a thousand");
        }
        assert_eq!(
            (trail.counts().attempts, trail.counts().failures),
            (1000, 10)
        );
        faults.heal();
        trail.close().unwrap();
        assert_eq!(told.try_recv().is_ok(), expected, "{threshold} per mille");
        let opened = &of_event(&place.records(), "TrailOpened")[0];
        assert_eq!(opened["failure_threshold_per_mille"], threshold);
        assert_eq!(opened["failure_window_s"], 300);
    }
}

#[test]
fn a_window_or_threshold_that_makes_no_sense_is_refused() {
    let place = Place::new();
    let day = Duration::from_secs(24 * 3600);
    for window in [
        Duration::ZERO,
        Duration::from_millis(999),
        Duration::from_millis(1500),
        day + Duration::from_secs(1),
    ] {
        let error = place
            .builder()
            .failure_window(window)
            .open_or_create()
            .unwrap_err();
        let OpenError::Configuration { setting, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(setting, "failure_window");
    }
    let builder = place.builder().failure_threshold_per_mille(1000);
    let error = builder.open_or_create().unwrap_err().to_string();
    assert_eq!(error, "failure_threshold_per_mille must be from 0 to 999");
    let builder = place.builder().failure_window(day);
    let builder = builder.failure_threshold_per_mille(999);
    builder.open_or_create().unwrap().close().unwrap();
}
