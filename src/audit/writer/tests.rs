//! What of the writer cannot be made to happen from outside without setting the machine's clock.

use serde_json::Value;

use super::*;
use crate::audit::event::Seq;

/// A watch that looked before the wall clock was set by `step` nanoseconds.
fn before_a_step_of(step: i64) -> ClockWatch {
    ClockWatch {
        offset: ClockWatch::offset() - step,
    }
}

#[test]
fn a_step_of_the_wall_clock_is_told_once_and_drift_is_not() {
    const HOUR: i64 = 3_600_000_000_000;
    for step in [HOUR, -HOUR, 200_000_000, -200_000_000] {
        let mut watch = before_a_step_of(step);
        let told = watch.step().unwrap();
        // Two clocks are read one after the other; in between the thread may have slept.
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
        event: Event::ClockStepped { step_ns: -5 },
    };
    let mut line = Vec::new();
    let worker = "worker-1".parse().unwrap();
    record.write_to("boot", &worker, &mut line).unwrap();
    let value: Value = serde_json::from_slice(&line).unwrap();
    let fields = value.as_object().unwrap();
    assert_eq!(fields.len(), 9, "eight common fields and one of its own");
    assert_eq!(fields["event"], "ClockStepped");
    assert_eq!(fields["severity"], "WARN");
    assert_eq!(fields["outcome"], "failure");
    assert_eq!(fields["step_ns"], -5);
}
