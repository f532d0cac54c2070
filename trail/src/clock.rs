//! The two clocks of a record: wall-clock time, which people read and which can jump, and the
//! monotonic time since boot, with the boot's id. A step of one against the other is noticed and
//! recorded. What records use them for is not known here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::time::ClockId;
use serde::{Serialize, Serializer};

use crate::key::{KeyError, fill_random};

/// The smallest change of the difference between wall clock and uptime that counts as a step.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// Wall-clock time in nanoseconds since 1970 (UTC), as read from `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Time(pub(crate) i64);

impl Time {
    /// Reads the wall clock.
    pub fn now() -> Self {
        Self(nanoseconds(ClockId::Realtime))
    }

    /// Makes a time from nanoseconds since 1970 (UTC).
    pub const fn from_unix_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Returns the nanoseconds since 1970 (UTC).
    pub const fn unix_nanoseconds(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since 1970, or 0 for an earlier time.
    pub(crate) fn unix_seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000_000)).unwrap_or(0)
    }

    pub(crate) fn before(self, distance: Duration) -> Self {
        let distance = i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(distance))
    }

    /// Converts to the standard library's type, or to 1970 if the time is out of its range.
    pub fn to_system_time(self) -> SystemTime {
        let distance = Duration::from_nanos(self.0.unsigned_abs());
        let shifted = if self.0 < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        shifted.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Time {
    /// Formats as RFC 3339, UTC, nine digits of fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_nanosecond(self.0.into()).map_err(|_| fmt::Error)?;
        write!(f, "{time:.9}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Time since boot in nanoseconds, suspended time included (`CLOCK_BOOTTIME`). It never jumps.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Uptime(i64);

impl Uptime {
    /// Reads the time since boot.
    pub fn now() -> Self {
        Self(nanoseconds(ClockId::Boottime))
    }

    /// Returns the time from `earlier` to this time, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    pub(crate) fn microseconds_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(0)
    }

    pub(crate) fn after_microseconds(self, microseconds: u64) -> Self {
        let nanoseconds = i64::try_from(microseconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Returns the nanoseconds since boot.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// Makes a time from nanoseconds since boot.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

/// Returns the kernel's boot id. If it cannot be read, as in some sandboxes, the fallback begins
/// with `unknown-` and is different for each opening. It states that two boots are not known to be
/// the same.
pub(crate) fn boot_id() -> Result<Arc<str>, KeyError> {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let told = told.trim();
    let is_id = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if (32..=36).contains(&told.len()) && told.bytes().all(is_id) {
        return Ok(told.into());
    }
    let mut random = [0; 8];
    fill_random(&mut random)?;
    Ok(format!("unknown-{}", hex::encode(random)).into())
}

/// Notices when the wall clock jumps against the uptime.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    offset: i64,
}

impl ClockWatch {
    pub(crate) fn new() -> Self {
        Self {
            offset: Self::offset(),
        }
    }

    fn offset() -> i64 {
        Time::now().0.saturating_sub(Uptime::now().nanoseconds())
    }

    /// Returns the step since the last look, in nanoseconds.
    pub(crate) fn step(&mut self) -> Option<i64> {
        let offset = Self::offset();
        let step = offset.saturating_sub(self.offset);
        self.offset = offset;
        (u128::from(step.unsigned_abs()) >= CLOCK_STEP.as_nanos()).then_some(step)
    }
}

/// A test cannot cause a step without setting the machine's clock.
#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::application::Plain;
    use crate::event::{Event, Seq};
    use crate::record::Record;

    /// Returns a watch whose last look was before a step of the wall clock by `step` nanoseconds.
    fn before_a_step_of(step: i64) -> ClockWatch {
        ClockWatch {
            offset: ClockWatch::offset() - step,
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow between the readings of two clocks")]
    fn a_step_of_the_wall_clock_is_told_once_and_drift_is_not() {
        const HOUR: i64 = 3_600_000_000_000;
        for step in [HOUR, -HOUR, 200_000_000, -200_000_000] {
            let mut watch = before_a_step_of(step);
            let told = watch.step().unwrap();
            // The two clocks are read one after the other, and the thread may have slept in
            // between.
            assert!((told - step).abs() < 50_000_000, "{told} for {step}");
            assert_eq!(watch.step(), None, "told twice");
        }
        assert_eq!(ClockWatch::new().step(), None);
        assert_eq!(before_a_step_of(20_000_000).step(), None);
    }

    #[test]
    fn a_step_is_recorded_as_a_warning_with_its_size_and_direction() {
        let record = Record {
            seq: Seq(7),
            time: Time::now(),
            mono_us: 1,
            event: Event::<Plain>::ClockStepped { step_ns: -5 },
        };
        let mut line = Vec::new();
        let worker = "worker-1".parse().unwrap();
        record.write_to("boot", &worker, 0, &mut line).unwrap();
        let value: Value = serde_json::from_slice(&line).unwrap();
        let fields = value.as_object().unwrap();
        assert_eq!(fields.len(), 10, "nine of every record and one of its own");
        assert_eq!(fields["event"], "ClockStepped");
        assert_eq!(fields["severity"], "WARN");
        assert_eq!(fields["outcome"], "failure");
        assert_eq!(fields["step_ns"], -5);
    }
}
