//! Code that the trail calls and that is not ours: a log whose pipe is closed or full, a recorder, an
//! anchor, a hook or a signer that panics, and all of them when they record something themselves. The
//! trail goes on: what it acknowledges is on the disk, and nobody waits for them.
//!
//! A process has one log and one recorder, so each test runs in a process of its own. Not defended, and
//! not tried here: `panic = "abort"`, and a panic hook that ends the process.

mod hostile;
mod pipes;
mod reentrant;
mod unheard;

use std::time::{Duration, Instant};

/// Waits until something is so that another thread brings about.
#[track_caller]
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
