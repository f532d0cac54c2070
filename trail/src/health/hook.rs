//! The user's hook for degraded recording, on a thread of its own.
//!
//! The hook may take its time, hang or panic: the writer hands a crossing over without waiting, and
//! goes on. A forked child has no such thread, so the hook is never called there. This module does
//! not know when a crossing happens: see [`FailureRatio`](super::FailureRatio).

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Degradation;
use crate::foreign::{self, Held};
use crate::threads::{self, Instant};

/// The number of crossings that may wait for a slow hook.
const WAITING: usize = 64;

/// The interval at which closing checks whether the hook's thread has ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The user's hook.
pub(crate) struct Hook(Held<Box<HookFn>>);

type HookFn = dyn FnMut(&Degradation) + Send;

/// The writer's end of the channel. When it is dropped, the thread delivers all crossings and ends.
#[derive(Debug)]
pub(crate) struct Bell(SyncSender<Degradation>);

/// The thread that calls the hook. Dropping this detaches the thread.
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
    /// Waits until all crossings are delivered to the hook, at most until the deadline.
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
