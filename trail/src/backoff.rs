//! The back-off of the writer after a failure of the disk.
//!
//! The first failure costs nothing: a new segment is tried at once. Each further one doubles the
//! rest before the next attempt, so that a disk on which every second sync fails is not filled with
//! segments. The rest is never so long that a caller's deadline could pass without an attempt. It
//! is counted down in time slept, not by the clock. This module knows nothing of files.

use std::time::Duration;

use super::threads::Instant;

/// The rest after the second failure in a row.
const FIRST: Duration = Duration::from_millis(20);

/// The longest rest, whatever the deadline of critical records.
const LONGEST: Duration = Duration::from_secs(5);

/// The longest rest is never shorter than this, whatever the deadline.
const SHORTEST_LIMIT: Duration = Duration::from_millis(10);

/// The time without a failure after which the next failure counts as the first.
const QUIET: Duration = Duration::from_secs(10);

/// The writer's back-off state.
#[derive(Debug)]
pub(super) struct Backoff {
    limit: Duration,
    /// The failures in a row, and the time of the last one.
    in_a_row: u32,
    latest: Option<Instant>,
    /// All failures.
    total: u64,
    /// The remaining rest.
    rest: Duration,
    /// The seed of the jitter, so that two processes on one disk do not retry at the same moments.
    seed: u64,
}

impl Backoff {
    /// Starts for callers who wait for `deadline`: several attempts come before it.
    pub(super) fn new(deadline: Duration, seed: &[u8]) -> Self {
        let limit = deadline.checked_div(4).unwrap_or(deadline);
        Self {
            limit: limit.clamp(SHORTEST_LIMIT, LONGEST),
            in_a_row: 0,
            latest: None,
            total: 0,
            rest: Duration::ZERO,
            seed: seed
                .iter()
                .fold(0, |seed, byte| mix(seed ^ u64::from(*byte))),
        }
    }

    /// Notes that an attempt has failed, or a segment was given up.
    pub(super) fn failed(&mut self, now: Instant) {
        let is_late = |latest| now.saturating_duration_since(latest) > QUIET;
        if self.latest.is_some_and(is_late) {
            self.in_a_row = 0;
        }
        self.latest = Some(now);
        self.total = self.total.saturating_add(1);
        let doublings = self.in_a_row.checked_sub(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.rest = doublings.map_or(Duration::ZERO, |doublings| {
            let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            self.jittered(FIRST.saturating_mul(factor).min(self.limit))
        });
    }

    /// Returns a random time between half of `rest` and all of it.
    fn jittered(&mut self, rest: Duration) -> Duration {
        self.seed = mix(self.seed);
        let half = rest.checked_div(2).unwrap_or_default();
        let share = u32::from(self.seed.to_le_bytes()[0]);
        let more = half.saturating_mul(share).checked_div(255);
        half.saturating_add(more.unwrap_or_default())
    }

    /// Returns the number of failures.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_resting(&self) -> bool {
        !self.rest.is_zero()
    }

    /// Takes up to `longest` of the remaining rest, to be slept now.
    pub(super) fn take(&mut self, longest: Duration) -> Duration {
        let slice = self.rest.min(longest);
        self.rest = self.rest.saturating_sub(slice);
        slice
    }
}

/// SplitMix64's step.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[cfg(not(all(shuttle, feature = "shuttle")))]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    fn rests(backoff: &mut Backoff, count: usize) -> Vec<u128> {
        let now = Instant::now();
        let rest = |_| {
            backoff.failed(now);
            backoff.take(Duration::MAX).as_millis()
        };
        (0..count).map(rest).collect()
    }

    #[test]
    fn the_first_failure_costs_nothing_and_each_further_one_twice_the_rest_up_to_the_limit() {
        for seed in 0..if cfg!(miri) { 4 } else { 200_u8 } {
            let found = rests(&mut Backoff::new(DEADLINE, &[seed]), 60);
            assert_eq!(found[0], 0);
            let whole = [20, 40, 80, 160, 320, 640, 1250, 1250, 1250];
            for (found, whole) in found[1..].iter().zip(whole.iter().chain([&1250; 60])) {
                assert!((whole / 2..=*whole).contains(found), "{found} of {whole}");
            }
        }
    }

    #[test]
    fn two_workers_do_not_rest_in_step() {
        let [one, other] = [b"one", b"two"].map(|seed| rests(&mut Backoff::new(DEADLINE, seed), 9));
        assert_ne!(one, other);
    }

    #[test]
    fn no_rest_is_longer_than_a_quarter_of_the_deadline_or_five_seconds() {
        for (deadline_ms, limit_ms) in [(1, 10), (400, 100), (5_000, 1_250), (3_600_000, 5_000)] {
            let deadline = Duration::from_millis(deadline_ms);
            let found = rests(&mut Backoff::new(deadline, b"w"), 40);
            assert!(found.iter().all(|rest| *rest <= limit_ms), "{found:?}");
            assert!(found.iter().any(|rest| *rest >= limit_ms / 2));
        }
    }

    #[test]
    fn after_a_quiet_time_a_failure_is_the_first_one_again() {
        let mut backoff = Backoff::new(DEADLINE, b"w");
        let now = Instant::now();
        backoff.failed(now);
        backoff.failed(now + QUIET);
        assert!(backoff.is_resting());
        backoff.failed(now + QUIET + QUIET + Duration::from_millis(1));
        assert!(!backoff.is_resting());
        assert_eq!(backoff.total(), 3);
    }

    #[test]
    fn a_rest_is_taken_in_slices() {
        let mut backoff = Backoff::new(DEADLINE, b"w");
        rests(&mut backoff, 8);
        backoff.failed(Instant::now());
        let slice = Duration::from_millis(10);
        let mut slept = Duration::ZERO;
        while backoff.is_resting() {
            slept += backoff.take(slice);
        }
        assert!(slept >= Duration::from_millis(625), "{slept:?}");
        assert_eq!(backoff.take(slice), Duration::ZERO);
    }
}
