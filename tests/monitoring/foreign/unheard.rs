//! What the log does not take: counted and told later where it was slow, on record where its filter
//! leaves checkpoints out.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};

use super::until;
use crate::support::{VIOLATION, alone, builder_at, of_event, records};

/// A log that takes nothing while it is shut.
#[derive(Clone, Default)]
struct Slow(Arc<Gate>);

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_open: bool,
    text: Vec<u8>,
}

impl Slow {
    fn open(&self) {
        self.0.state.lock().unwrap().is_open = true;
        self.0.changed.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.state.lock().unwrap().text.clone()).unwrap()
    }
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut state = self.0.state.lock().unwrap();
        while !state.is_open {
            state = self.0.changed.wait(state).unwrap();
        }
        state.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn messages_that_find_no_room_are_counted_and_told_later() {
    const FAILURES: usize = 1500;
    const TOLD: &str = "a record that must be durable is not";
    alone(|place| {
        let slow = Slow::default();
        let writer = slow.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        let faults = StorageFaults::dangerous_new();
        let trail = builder_at(place)
            .critical_deadline(Duration::from_millis(2))
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        faults.fail_every(Step::Sync, StorageError::Io, 1);
        faults.fail_every(Step::Create, StorageError::NoSpace, 1);
        for _ in 0..FAILURES {
            trail.policy_violation(VIOLATION).unwrap_err();
        }
        faults.heal();
        slow.open();
        until("what was logged comes", || {
            slow.text()
                .contains("the log did not take messages")
                .then_some(())
        });
        until("the log has caught up", || {
            let text = slow.text();
            let logged = text.lines().filter(|line| line.contains(TOLD)).count();
            let missed = text
                .lines()
                .filter_map(|line| line.split("messages=").nth(1))
                .map(|rest| rest.trim().parse::<usize>().unwrap())
                .sum::<usize>();
            // Others than these are logged and missed, too.
            (logged > 0 && logged < FAILURES && logged + missed >= FAILURES).then_some(())
        });
        // In so short a time it may not close well.
        drop(trail);
    });
}

/// A log that panics at a message and then has nothing to take.
#[test]
fn a_message_that_was_missed_is_told_although_none_follows() {
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    static TOLD: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    struct Once;
    impl<S: tracing::Subscriber> Layer<S> for Once {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            // A checkpoint comes from the anchors' thread, and under load before the writer's message.
            if event.metadata().target() == "vram_residency::checkpoint" {
                return;
            }
            let mut told = TOLD.lock().unwrap();
            let is_missed = event.metadata().fields().field("messages").is_some();
            told.push(if is_missed { "missed" } else { "another" });
            let is_first = told.len() == 1;
            drop(told);
            assert!(!is_first, "once");
        }
    }
    alone(|place| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Once)).unwrap();
        let faults = StorageFaults::dangerous_new();
        let trail = builder_at(place)
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        faults.fail(Step::Write, StorageError::NoSpace, 1);
        trail.note("x").unwrap();
        until("it is written", || trail.flush().ok());
        until("it is told", || {
            TOLD.lock().unwrap().contains(&"missed").then_some(())
        });
        drop(trail);
    });
}

/// The anchors that failed on record, with the reason, of a trail whose log has such a level.
fn failed(place: &Path, level: Option<LevelFilter>) -> Vec<(String, String)> {
    if let Some(level) = level {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::sink)
            .init();
    }
    let trail = builder_at(place)
        .durable_within(Duration::from_millis(20))
        .open_or_create()
        .unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    // Several ticks.
    std::thread::sleep(Duration::from_millis(500));
    trail.policy_violation(VIOLATION).unwrap();
    let failed = of_event(&records(&place.join("trail")), "AnchorFailed");
    trail.close().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    failed
        .iter()
        .map(|failed| (text(&failed["anchor"]), text(&failed["cause"])))
        .collect()
}

fn names_the_target(failed: &[(String, String)]) {
    let [(anchor, cause)] = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(anchor, "tracing");
    assert!(cause.contains("vram_residency::checkpoint"), "{cause}");
}

#[test]
fn a_log_at_error_is_an_anchor_that_fails_on_record() {
    alone(|place| names_the_target(&failed(place, Some(LevelFilter::ERROR))));
}

#[test]
fn a_log_that_is_off_is_an_anchor_that_fails_on_record() {
    alone(|place| names_the_target(&failed(place, Some(LevelFilter::OFF))));
}

#[test]
fn a_log_that_takes_checkpoints_fails_at_nothing() {
    alone(|place| assert!(failed(place, Some(LevelFilter::INFO)).is_empty()));
}

#[test]
fn a_process_without_a_log_expects_no_checkpoints_there() {
    alone(|place| assert!(failed(place, None).is_empty()));
}
