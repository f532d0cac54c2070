//! What an anchor says stands in records: none of its words may break the trail.

use std::sync::atomic::{AtomicUsize, Ordering};

use vram_residency::AuditTrail;

use super::*;
use support::segments;

/// The most bytes in a line, as FORMAT.md says.
const LONGEST_LINE: usize = 65_535;

/// An anchor that says at each question what the test wants.
struct Talker {
    /// A good name is told so many times, and then one that no line has room for.
    names: AtomicUsize,
    error: Option<String>,
    endless: String,
}

impl Talker {
    fn new() -> Self {
        Self {
            names: usize::MAX.into(),
            error: None,
            endless: "\u{1}".repeat(70_000),
        }
    }
}

impl Anchor for Talker {
    fn name(&self) -> &str {
        let told = self
            .names
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |names| {
                names.checked_sub(1)
            });
        told.map_or(&self.endless, |_| "talker")
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        match &self.error {
            Some(error) => Err(AnchorError::Other(error.clone().into())),
            None => Ok(()),
        }
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

/// The records of a trail whose lines all have their room, and that holds.
#[track_caller]
fn sound(place: &Place, trail: AuditTrail) -> Vec<Value> {
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let anchors = [receipt.checkpoint().clone(), last.checkpoint().clone()];
    let report = place.verify(&key, &anchors);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    for path in segments(&place.dir()) {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().all(|line| line.len() <= LONGEST_LINE));
    }
    place.records()
}

#[test]
fn a_name_that_changes_after_it_was_asked_for_is_the_first_one_for_ever() {
    let place = Place::new();
    let anchor = Talker {
        names: 1.into(),
        ..Talker::new()
    };
    let trail = place.builder().anchor(anchor).open_or_create().unwrap();
    let records = sound(&place, trail);
    assert_eq!(
        of_event(&records, "TrailOpened")[0]["anchors"],
        json!(["tracing", "talker"])
    );
}

#[test]
fn a_name_that_is_too_long_or_panics_is_refused_before_anything_is_made() {
    struct Silent;

    impl Anchor for Silent {
        fn name(&self) -> &str {
            panic!("no name")
        }

        fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
            Ok(())
        }

        fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
            Ok(None)
        }
    }

    let place = Place::new();
    let endless = Talker {
        names: 0.into(),
        ..Talker::new()
    };
    for builder in [
        place.builder().anchor(endless),
        place.builder().anchor(Silent),
    ] {
        let error = builder.open_or_create().unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Configuration {
                    setting: "anchor",
                    ..
                }
            ),
            "{error}"
        );
        assert!(!place.dir().exists());
    }
}

#[test]
fn an_error_of_any_length_is_cut_on_record() {
    let place = Place::new();
    let anchor = Talker {
        error: Some("é".repeat(70_000)),
        ..Talker::new()
    };
    let trail = place.builder().anchor(anchor).open_or_create().unwrap();
    until("the outage on record", || {
        trail.flush().unwrap();
        let failed = of_event(&place.records(), "AnchorFailed").pop()?;
        let cause = failed["cause"].as_str().unwrap();
        assert!(cause.len() <= 1024 && cause.ends_with("é…"), "{cause}");
        Some(())
    });
    sound(&place, trail);
}
