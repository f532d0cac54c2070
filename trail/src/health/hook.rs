//! The user's own code that is told when recording degrades, on a thread of its own.
//!
//! It may take its time, hang or panic: the writer hands a crossing over without waiting, and goes
//! on. A forked child has no such thread, so the hook is never called there. This module does not
//! know when a crossing happens: that is [`FailureRatio`](super::FailureRatio).

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Degradation;
use crate::foreign::{self, Held};
use crate::threads::{self, Instant};

/// How many crossings may wait for a hook that takes its time.
const WAITING: usize = 64;

/// How often closing looks whether the hook's thread has ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What the user wants to be called.
pub(crate) struct Hook(Held<Box<HookFn>>);

type HookFn = dyn FnMut(&Degradation) + Send;

/// The writer's end. The thread ends, once it has told everything, when this is dropped.
#[derive(Debug)]
pub(crate) struct Bell(SyncSender<Degradation>);

/// The thread that calls the hook. Dropping this leaves it to itself.
#[derive(Debug)]
pub(crate) struct HookThread(JoinHandle<()>);

impl Hook {
    pub(crate) fn new(hook: impl FnMut(&Degradation) + Send + 'static) -> Self {
        Self(Held::new(Box::new(hook)))
    }

    /// Starts the thread that calls the hook, once for each crossing.
    pub(crate) fn start(self) -> io::Result<(Bell, HookThread)> {
        let (bell, crossings) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("vram-audit-hook".into())
            .spawn(move || self.run(&crossings))?;
        Ok((Bell(bell), HookThread(thread)))
    }

    fn run(mut self, crossings: &Receiver<Degradation>) {
        while let Ok(crossing) = crossings.recv() {
            if self.0.call(|hook| hook(&crossing)).is_err() {
                foreign::log(move || {
                    tracing::error!(target: crate::LOG,
                        degraded = crossing.degraded,
                        "the hook for a degraded audit trail has panicked; it is called again for the next crossing"
                    );
                });
            }
        }
    }
}

impl Bell {
    /// Hands a crossing over, without waiting.
    pub(crate) fn ring(&self, crossing: Degradation) {
        if self.0.try_send(crossing).is_err() {
            foreign::log(move || {
                tracing::error!(target: crate::LOG,
                    degraded = crossing.degraded,
                    "the hook for a degraded audit trail does not return, and is not told of this"
                );
            });
        }
    }
}

impl HookThread {
    /// Waits until the hook has been told everything, at most until the deadline.
    pub(crate) fn wait(self, deadline: Instant) {
        while !self.0.is_finished() {
            if Instant::now() >= deadline {
                foreign::log(|| {
                    tracing::error!(target: crate::LOG,
                        "the hook for a degraded audit trail does not return, and is left to itself"
                    );
                });
                return;
            }
            threads::sleep(LOOK_EVERY);
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").finish_non_exhaustive()
    }
}
