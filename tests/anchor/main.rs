//! Anchors: what they are given and when, what they can refuse, and that none of them, however slow,
//! dead or hostile, delays the trail or stops a worker that is honest.

#[path = "../support/mod.rs"]
mod support;

mod kept;
mod opening;
mod outage;
mod server;
mod shipped;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Place, VIOLATION, of_event};
use vram_residency::audit::{Anchor, AnchorError, Checkpoint, Listing, OpenError, Outcome};

/// Long enough for any thread to come to it; nothing waits that long if all is well.
const LONG: Duration = Duration::from_secs(60);

/// Waits until something is so that another thread brings about.
#[track_caller]
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An anchor in the test's own memory; clones are the same one.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    newest: HashMap<String, Checkpoint>,
    given: Vec<Checkpoint>,
    /// Why every call fails.
    trouble: Option<&'static str>,
    asked: usize,
}

impl Memory {
    /// One that remembers this checkpoint and no other.
    fn of(checkpoint: &Checkpoint) -> Self {
        let memory = Self::default();
        let mut inner = memory.0.lock().unwrap();
        let origin = checkpoint.origin().to_owned();
        inner.newest.insert(origin, checkpoint.clone());
        drop(inner);
        memory
    }

    fn sizes(&self) -> Vec<u64> {
        let inner = self.0.lock().unwrap();
        inner.given.iter().map(Checkpoint::size).collect()
    }

    fn newest(&self) -> Option<Checkpoint> {
        self.0.lock().unwrap().given.last().cloned()
    }

    fn trouble(&self, trouble: Option<&'static str>) {
        self.0.lock().unwrap().trouble = trouble;
    }
}

impl Anchor for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let mut inner = self.0.lock().unwrap();
        if let Some(trouble) = inner.trouble {
            return Err(AnchorError::Other(trouble.into()));
        }
        let origin = checkpoint.origin().to_owned();
        inner.newest.insert(origin, checkpoint.clone());
        inner.given.push(checkpoint.clone());
        Ok(())
    }

    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        let mut inner = self.0.lock().unwrap();
        inner.asked += 1;
        match inner.trouble {
            Some(trouble) => Err(AnchorError::Other(trouble.into())),
            None => Ok(inner.newest.get(origin).cloned()),
        }
    }

    fn checkpoints(&mut self, origin: &str, from: u64) -> Result<Listing<Checkpoint>, AnchorError> {
        let inner = self.0.lock().unwrap();
        if let Some(trouble) = inner.trouble {
            return Err(AnchorError::Other(trouble.into()));
        }
        let all = inner.given.iter().chain(inner.newest.get(origin));
        let mut all: Vec<_> = all.filter(|kept| kept.origin() == origin).collect();
        all.sort_by_key(|kept| kept.size());
        all.dedup_by_key(|kept| kept.size());
        let page = all.into_iter().filter(|kept| kept.size() >= from);
        // Small pages, so that most comparisons take several.
        Ok(Listing::Known(page.take(2).cloned().collect()))
    }

    fn origins(&mut self, worker: &str) -> Result<Listing<String>, AnchorError> {
        let inner = self.0.lock().unwrap();
        if let Some(trouble) = inner.trouble {
            return Err(AnchorError::Other(trouble.into()));
        }
        let prefix = format!("vram-residency/{worker}/");
        let origins = inner.newest.keys().filter(|key| key.starts_with(&prefix));
        Ok(Listing::Known(origins.cloned().collect()))
    }
}

#[test]
fn anchors_get_what_opens_what_is_critical_and_what_closes_and_vouch_for_the_end() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    until("the opening is anchored", || memory.newest());
    trail.note("ordinary").unwrap();
    trail.flush().unwrap();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    let critical = receipt.checkpoint().size();
    let kept = until("the critical record is anchored", || {
        trail
            .anchored_until()
            .filter(|kept| kept.checkpoint().size() >= critical)
    });
    assert_eq!(kept.anchor(), "memory");
    assert_eq!(kept.checkpoint(), receipt.checkpoint());
    assert!(kept.at() <= std::time::SystemTime::now());
    let last = trail.close().unwrap();
    assert_eq!(memory.sizes(), [1, critical, last.checkpoint().size()]);
    assert_eq!(memory.newest().as_ref(), Some(last.checkpoint()));
    let report = place.verify(&key, &[memory.newest().unwrap()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for, "{report}");
}

#[test]
fn ordinary_records_are_anchored_after_so_many_and_after_so_long() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .anchor(memory.clone())
        .anchor_every_records(10)
        .anchor_every(Duration::from_secs(3600))
        .open_or_create()
        .unwrap();
    until("the opening is anchored", || memory.newest());
    for count in 1..10 {
        trail.note(format!("{count}")).unwrap();
        trail.flush().unwrap();
    }
    trail.note("ten").unwrap();
    trail.flush().unwrap();
    until("ten records are anchored", || {
        (memory.sizes().len() > 1).then_some(())
    });
    assert_eq!(memory.sizes(), [1, 11], "no one before the tenth");
    trail.close().unwrap();

    let place = Place::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .anchor(memory.clone())
        .anchor_every(Duration::from_millis(1))
        .open_or_create()
        .unwrap();
    trail.note("alone").unwrap();
    // Nothing else comes that would take it along: the time has to bring it.
    until("time brings it", || {
        (memory.sizes().last() == Some(&2)).then_some(())
    });
    trail.close().unwrap();
}

#[test]
fn a_record_is_without_an_anchor_from_when_it_was_made() {
    let place = Place::new();
    let memory = Memory::default();
    let builder = place.builder().anchor(memory.clone());
    let trail = builder
        .durable_within(Duration::from_secs(600))
        .anchor_every_records(1)
        .open_or_create()
        .unwrap();
    let anchored = || trail.unanchored_for().is_zero();
    until("its opening is anchored", || anchored().then_some(()));
    memory.trouble(Some("unplugged"));
    let pause = Duration::from_millis(300);
    trail.note("made now").unwrap();
    std::thread::sleep(pause);
    assert!(trail.unanchored_for() >= pause, "it is not durable yet");
    trail.flush().unwrap();
    let durable = trail.unanchored_for();
    assert!(durable >= pause, "{durable:?}: it was made before");
    std::thread::sleep(pause);
    assert!(trail.unanchored_for() >= 2 * pause);
    memory.trouble(None);
    until("it is anchored", || anchored().then_some(()));
    trail.close().unwrap();
}

#[test]
fn how_long_records_have_been_without_an_anchor_is_told() {
    let place = Place::new();
    let trail = place.open();
    trail.policy_violation(VIOLATION).unwrap();
    assert_eq!(
        trail.unanchored_for(),
        Duration::ZERO,
        "the log is no anchor"
    );
    assert!(trail.anchored_until().is_none());
    trail.close().unwrap();

    let memory = Memory::default();
    memory.trouble(Some("unplugged"));
    // That the anchor works again is a record, too, and has to be anchored.
    let builder = place.builder().anchor(memory.clone());
    let trail = builder
        .anchor_every(Duration::from_millis(1))
        .open_or_create();
    let trail = trail.unwrap();
    let first = until("it is behind", || {
        Some(trail.unanchored_for()).filter(|behind| !behind.is_zero())
    });
    trail.policy_violation(VIOLATION).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let later = trail.unanchored_for();
    assert!(
        later >= first + Duration::from_millis(20),
        "{first:?}, {later:?}"
    );
    memory.trouble(None);
    until("the newest is anchored", || {
        let newest = trail.checkpoint().unwrap();
        let kept = trail.anchored_until()?;
        (trail.unanchored_for().is_zero() && kept.checkpoint() == newest.as_ref()).then_some(())
    });
    trail.close().unwrap();
}

#[test]
fn which_anchors_a_trail_has_is_on_record() {
    let place = Place::new();
    let anchored = place
        .builder()
        .anchor(Memory::default())
        .anchor_every_records(7)
        .anchor_every(Duration::from_millis(1500));
    anchored.open_or_create().unwrap().close().unwrap();
    let opened: Value = of_event(&place.records(), "TrailOpened").remove(0);
    assert_eq!(opened["anchors"], json!(["tracing", "memory"]));
    assert_eq!(opened["anchor_every_records"], 7);
    assert_eq!(opened["anchor_every_ms"], 1500);
}

/// Has a name and does nothing.
struct Named(String);

impl Anchor for Named {
    fn name(&self) -> &str {
        &self.0
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }
}

#[test]
fn anchors_that_cannot_be_told_apart_are_refused() {
    let place = Place::new();
    let long = "x".repeat(257);
    for names in [
        &["a", "b", "a"][..],
        &["tracing"],
        &[""],
        &["a\nb"],
        &[&long],
        &["a"; 17],
    ] {
        let builder = place.builder();
        let builder = names.iter().fold(builder, |builder, name| {
            builder.anchor(Named((*name).into()))
        });
        let error = builder.open_or_create().unwrap_err();
        let OpenError::Configuration {
            setting: "anchor", ..
        } = error
        else {
            panic!("{names:?}: {error}");
        };
    }
    for (builder, setting) in [
        (
            place.builder().anchor_every_records(0),
            "anchor_every_records",
        ),
        (place.builder().anchor_every(Duration::ZERO), "anchor_every"),
    ] {
        let error = builder.open_or_create().unwrap_err();
        assert!(error.to_string().starts_with(setting), "{error}");
    }
    assert!(!place.dir().exists(), "nothing was opened");
}
