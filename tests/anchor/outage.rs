//! Anchors that do not work. The trail goes on as if they were not there, says so once, and says so
//! when they work again.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vram_residency::audit::{Anchor, AnchorError, Checkpoint, Listing, Outcome};

use crate::support::{Place, VIOLATION, of_event};
use crate::{Memory, until};

/// An anchor whose calls return when the test lets them.
struct Hanging {
    gate: Receiver<()>,
    arrived: Sender<u64>,
}

impl Hanging {
    fn new() -> (Self, Sender<()>, Receiver<u64>) {
        let ((open, gate), (arrived, arrivals)) = (channel(), channel());
        (Self { gate, arrived }, open, arrivals)
    }

    fn wait(&self, size: u64) -> Result<(), AnchorError> {
        self.arrived.send(size).ok();
        let gone = |_| AnchorError::Other("the test is over".into());
        self.gate.recv().map_err(gone)
    }
}

impl Anchor for Hanging {
    fn name(&self) -> &str {
        "hanging"
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        self.wait(checkpoint.size())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        self.wait(0).map(|()| None)
    }
}

#[test]
fn an_anchor_that_hangs_delays_nothing_and_gets_the_newest_when_it_is_back() {
    let place = Place::new();
    let (hanging, open, arrivals) = Hanging::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .critical_deadline(Duration::from_millis(1500))
        .anchor(hanging)
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    assert_eq!(arrivals.recv().unwrap(), 1);
    // The call that has begun never ends; receipts, and the other anchor, do not mind.
    let mut newest = 0;
    for _ in 0..50 {
        newest = trail
            .policy_violation(VIOLATION)
            .unwrap()
            .checkpoint()
            .size();
    }
    until("the other anchor has it", || {
        (memory.newest()?.size() >= newest).then_some(())
    });
    let failed = until("it goes on record", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    assert_eq!(failed["anchor"], "hanging");
    assert_eq!(failed["cause"], "it does not answer");
    // A receipt comes before anchors are given its checkpoint; with the next one they have been.
    for _ in 0..2 {
        trail.policy_violation(VIOLATION).unwrap();
    }
    assert_eq!(of_event(&place.records(), "AnchorFailed").len(), 1, "once");

    open.send(()).unwrap();
    let next = arrivals.recv().unwrap();
    assert!(next > newest, "nothing queues up: {next} comes after 1");
    until("it recovered", || {
        of_event(&place.records(), "AnchorRecovered").pop()
    });
    open.send(()).unwrap();
    for _ in 0..9 {
        open.send(()).unwrap();
    }
    let last = trail.close().unwrap();
    assert_eq!(arrivals.try_iter().last(), Some(last.checkpoint().size()));
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert_eq!(of_event(&place.records(), "AnchorFailed").len(), 1);
}

#[test]
fn opening_and_closing_wait_for_a_hanging_anchor_no_longer_than_the_critical_deadline() {
    let place = Place::new();
    place.open().close().unwrap();
    let (hanging, _never, arrivals) = Hanging::new();
    let started = Instant::now();
    let trail = place
        .builder()
        .critical_deadline(Duration::from_millis(300))
        .anchor(hanging)
        .open_or_create()
        .unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "it is waited for"
    );
    assert_eq!(arrivals.recv().unwrap(), 0, "asked what it remembers");
    let failed = until("it goes on record", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    assert_eq!(failed["cause"], "it does not answer");
    trail.policy_violation(VIOLATION).unwrap();
    let closing = Instant::now();
    trail.close().expect("the trail closes well without it");
    // Waiting for ever is what must not happen; how long exactly depends on the machine.
    assert!(closing.elapsed() < crate::LONG);
    assert!(arrivals.try_iter().next().is_none(), "it was given nothing");
    place.open().close().unwrap();
}

#[test]
fn an_outage_is_recorded_once_and_so_is_its_end() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    until("it works", || memory.newest());
    for outage in 1..=2 {
        memory.trouble(Some("unplugged"));
        let size = trail
            .policy_violation(VIOLATION)
            .unwrap()
            .checkpoint()
            .size();
        let failed = until("it failed", || {
            of_event(&place.records(), "AnchorFailed")
                .get(outage - 1)
                .cloned()
        });
        assert_eq!(failed["anchor"], "memory");
        assert_eq!(failed["cause"], "unplugged");
        assert_eq!(failed["size"], size);
        // It is tried again meanwhile, and fails again.
        trail.policy_violation(VIOLATION).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        memory.trouble(None);
        let recovered = until("it recovered", || {
            of_event(&place.records(), "AnchorRecovered")
                .get(outage - 1)
                .cloned()
        });
        assert!(recovered["size"].as_u64().unwrap() > size);
        assert_eq!(of_event(&place.records(), "AnchorFailed").len(), outage);
    }
    let attempts = trail.counts().attempts;
    assert_eq!(attempts, 4, "what the trail says of itself is no attempt");
    trail.close().unwrap();
}

#[test]
fn closing_gives_a_failing_anchor_one_more_try_and_succeeds_without_it() {
    let place = Place::new();
    let memory = Memory::default();
    memory.trouble(Some("unplugged"));
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    until("it failed", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    trail.close().unwrap();
    assert!(memory.newest().is_none());

    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    // Long pauses by now; it is well again, and nobody has noticed.
    std::thread::sleep(Duration::from_secs(1));
    memory.trouble(None);
    let last = trail.close().unwrap();
    assert_eq!(memory.newest().as_ref(), Some(last.checkpoint()));
}

#[test]
fn dropping_a_trail_anchors_its_end_too() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    drop(trail);
    let report = place.verify(&key, &[memory.newest().unwrap()]);
    assert!(report.closed && report.end_vouched_for, "{report}");
}

/// Panics when it is called, and once more when it is dropped.
struct Panicking {
    at: &'static str,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Panicking {
    fn call(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
        assert!(self.at != call, "the anchor's own bug");
    }
}

impl Anchor for Panicking {
    fn name(&self) -> &str {
        "panicking"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        self.call("keep");
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        self.call("newest");
        Ok(None)
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        panic!("the anchor's other bug");
    }
}

#[test]
fn an_anchor_that_panics_is_on_record_and_is_called_no_more() {
    for at in ["keep", "newest"] {
        let place = Place::new();
        place.open().close().unwrap();
        let calls = Arc::<Mutex<Vec<_>>>::default();
        let anchor = Panicking {
            at,
            calls: Arc::clone(&calls),
        };
        let trail = place.builder().anchor(anchor).open_or_create().unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        let failed = until("it goes on record", || {
            of_event(&place.records(), "AnchorFailed").pop()
        });
        assert_eq!(failed["cause"], "it panicked and is given up");
        let before = calls.lock().unwrap().clone();
        assert_eq!(before.last(), Some(&at));
        trail.policy_violation(VIOLATION).unwrap();
        trail.close().unwrap();
        assert_eq!(*calls.lock().unwrap(), before);
        place.open().close().unwrap();
    }
}

/// An anchor that is out of reach at first, and then of no use for good.
struct Useless {
    asked: usize,
    then: fn() -> Result<Listing<String>, AnchorError>,
}

impl Anchor for Useless {
    fn name(&self) -> &str {
        "useless"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(None)
    }

    fn origins(&mut self, _: &str) -> Result<Listing<String>, AnchorError> {
        self.asked += 1;
        match self.asked {
            1 => Err(AnchorError::Other("connection refused".into())),
            _ => (self.then)(),
        }
    }
}

/// What would have refused the opening is not hidden by an outage that came before it.
#[test]
fn an_outage_does_not_hide_that_nothing_more_comes_of_an_anchor() {
    const OTHER: &str = "vram-residency/worker-1/0123456789abcdef";
    let other = || Ok(Listing::Known(vec![OTHER.into()]));
    let panics = || panic!("on purpose");
    let cases: [(fn() -> _, _); 2] = [(other, OTHER), (panics, "it panicked")];
    for (then, said) in cases {
        let place = Place::new();
        let useless = Useless { asked: 0, then };
        let trail = place.builder().anchor(useless).open_or_create().unwrap();
        let failed = until("both are on record", || {
            let failed = of_event(&place.records(), "AnchorFailed");
            (failed.len() == 2).then_some(failed)
        });
        assert_eq!(failed[0]["cause"], "connection refused");
        let cause = failed[1]["cause"].as_str().unwrap();
        assert!(cause.contains(said), "{cause}");
        trail.close().unwrap();
        let failed = of_event(&place.records(), "AnchorFailed");
        assert_eq!(failed.len(), 2, "once each");
    }
}

/// The anchor keeps a checkpoint that no key has signed. It is given nothing, and that is recorded besides the outage.
#[test]
fn an_outage_does_not_hide_that_an_anchor_holds_what_nobody_signed() {
    let other = Place::new();
    let foreign = other.open().close().unwrap();
    let place = Place::new();
    let own = place.open().close().unwrap();
    let origin = own.checkpoint().origin();
    let memory = Memory::of(&crate::opening::renamed(foreign.checkpoint(), origin));
    memory.trouble(Some("unplugged"));
    let trail = place.builder().anchor(memory.clone()).open().unwrap();
    let causes = || {
        let failed = of_event(&place.records(), "AnchorFailed");
        let cause = |failed: &serde_json::Value| failed["cause"].as_str().unwrap().to_owned();
        failed.iter().map(cause).collect::<Vec<_>>()
    };
    until("the outage is on record", || causes().pop());
    memory.trouble(None);
    let both = until("so is what it holds", || {
        Some(causes()).filter(|causes| causes.len() == 2)
    });
    assert_eq!(both[0], "unplugged");
    let signed = "no key of this trail has signed";
    assert!(both[1].contains(signed), "{}", both[1]);
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    assert_eq!(causes(), both, "once each");
    assert!(memory.sizes().is_empty());
}
