//! The sliding window, with time and counts given by the test.

use super::*;

fn at(seconds: i64) -> Uptime {
    at_ms(seconds * 1000)
}

fn at_ms(milliseconds: i64) -> Uptime {
    Uptime::from_nanoseconds(milliseconds * 1_000_000)
}

fn counts(attempts: u64, failures: u64) -> AuditCounts {
    AuditCounts {
        attempts,
        failures,
        ..AuditCounts::default()
    }
}

fn by_default(now: Uptime) -> FailureRatio {
    FailureRatio::new(
        now,
        DEFAULT_FAILURE_WINDOW,
        DEFAULT_FAILURE_THRESHOLD_PER_MILLE,
    )
}

/// Returns a ratio over so many seconds, with the default threshold.
fn over(seconds: u64) -> FailureRatio {
    FailureRatio::new(at(0), Duration::from_secs(seconds), 10)
}

#[test]
fn exactly_one_percent_is_healthy_and_more_is_not() {
    let mut ratio = by_default(at(0));
    assert_eq!(ratio.look(at(1), counts(0, 0)), None, "idle");
    assert_eq!(ratio.look(at(2), counts(1000, 10)), None, "1.0 %");
    assert!(!ratio.is_degraded());
    let crossing = Degradation {
        degraded: true,
        window: Duration::from_secs(300),
        attempts: 1000,
        failures: 11,
    };
    assert_eq!(ratio.look(at(3), counts(1000, 11)), Some(crossing));
    assert!(ratio.is_degraded());
    assert_eq!(ratio.look(at(4), counts(1000, 12)), None, "told twice");
}

#[test]
fn a_threshold_of_nothing_allows_no_loss_and_one_of_all_but_one_almost_every() {
    let window = Duration::from_secs(60);
    let mut strict = FailureRatio::new(at(0), window, 0);
    assert_eq!(strict.look(at(1), counts(u64::MAX / 2, 0)), None);
    assert!(strict.look(at(2), counts(u64::MAX / 2, 1)).is_some());
    let mut lenient = FailureRatio::new(at(0), window, 999);
    assert_eq!(lenient.look(at(1), counts(1000, 999)), None);
    assert!(lenient.look(at(2), counts(1000, 1000)).is_some());
}

#[test]
fn losses_count_for_the_whole_window_and_little_longer() {
    let windows = [1, 10, 300, 3600, 86_400];
    let tried = if cfg!(miri) { 1 } else { windows.len() };
    for window in windows.into_iter().take(tried) {
        let mut ratio = over(window);
        let window_ms = i64::try_from(window).unwrap() * 1000;
        let step = window_ms / 1000;
        let lost_at = 10 * step;
        assert!(ratio.look(at_ms(lost_at), counts(100, 50)).is_some());
        let mut now = lost_at;
        let recovery = loop {
            now += step;
            assert!(now < 2 * window_ms, "it never recovers");
            if let Some(crossing) = ratio.look(at_ms(now), counts(100, 50)) {
                break crossing;
            }
        };
        let latest = window_ms + window_ms / 300 + step;
        let took = now - lost_at;
        assert!((window_ms..=latest).contains(&took), "{took} of {window} s");
        let expected = Degradation {
            degraded: false,
            window: Duration::from_secs(window),
            attempts: 0,
            failures: 0,
        };
        assert_eq!(recovery, expected);
    }
}

#[test]
fn every_crossing_is_told_in_either_direction() {
    let mut ratio = over(10);
    let (mut attempts, mut failures) = (0, 0);
    let mut told = Vec::new();
    for second in 1..=100 {
        attempts += 100;
        // Losses in the first second of each half minute.
        failures += if second % 30 == 1 { 20 } else { 0 };
        if let Some(crossing) = ratio.look(at(second), counts(attempts, failures)) {
            told.push((second, crossing.degraded));
        }
    }
    let expected = [1, 31, 61, 91].map(|start| [(start, true), (start + 10, false)]);
    assert_eq!(told, expected.as_flattened()[..7]);
}

#[test]
fn a_worker_that_falls_idle_recovers() {
    let mut ratio = by_default(at(0));
    assert!(ratio.look(at(1), counts(10, 10)).is_some());
    let recovery = ratio.look(at(400), counts(10, 10)).unwrap();
    assert!(!recovery.degraded);
    assert_eq!((recovery.attempts, recovery.failures), (0, 0));
}

#[test]
fn a_machine_that_slept_looks_at_what_came_since() {
    // `CLOCK_BOOTTIME` goes on while a machine sleeps; nothing was lost in that time.
    let mut ratio = by_default(at(0));
    assert!(ratio.look(at(10), counts(100, 50)).is_some());
    assert!(ratio.look(at(100_000), counts(101, 50)).is_some());
    assert!(!ratio.is_degraded());
    // One that never does, as in a test of this one, looks at nothing older than it began with.
    assert_eq!(ratio.look(at(99_000), counts(102, 50)), None);
}

#[test]
#[cfg_attr(miri, ignore = "looks too often")]
fn what_is_remembered_has_a_bound_for_every_window() {
    for (window, look_every_ms) in [(1, 1), (1, 500), (300, 500), (86_400, 5000)] {
        let mut ratio = over(window);
        let looks = 3 * i64::try_from(window).unwrap() * 1000 / look_every_ms;
        let mut most = 0;
        for look in 1..=looks {
            let now = at_ms(look * look_every_ms);
            ratio.look(now, counts(look.unsigned_abs(), 0));
            most = most.max(ratio.samples.len());
        }
        assert!(most <= 302, "{most} samples for {window} s");
    }
}
