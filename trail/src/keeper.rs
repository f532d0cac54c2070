//! Ends a trail: decides who closes it, and when.
//!
//! [`close`](crate::Trail::close) ends a trail at once. Without it the trail ends with its last
//! user: its owner or a recorder. Each holds the [`Keeper`], and the drop of the last one waits
//! until `TrailClosed` is written. This module does not know what the writer does to close a trail.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, PoisonError};

use super::threads::{self, Instant, JoinHandle, Mutex};
use super::{CloseError, Receipt, Shared};
use crate::application::Application;
use crate::health::hook::HookThread;
use crate::{foreign, process};

/// Closes the trail when its last user is dropped, unless it is closed already.
pub(crate) struct Keeper<A: Application> {
    shared: Arc<Shared<A>>,
    /// `None` once the trail is closed.
    threads: Mutex<Option<Threads>>,
}

/// The threads of an open trail.
pub(super) struct Threads {
    pub(super) writer: JoinHandle<Result<Receipt, CloseError>>,
    pub(super) hook: Option<HookThread>,
}

impl<A: Application> Keeper<A> {
    pub(super) fn new(shared: Arc<Shared<A>>, threads: Threads) -> Self {
        Self {
            shared,
            threads: Mutex::new(Some(threads)),
        }
    }

    /// Creates a keeper that keeps nothing open.
    #[cfg(all(shuttle, feature = "shuttle"))]
    pub(super) fn of_none(shared: Arc<Shared<A>>) -> Self {
        Self {
            shared,
            threads: Mutex::new(None),
        }
    }

    /// Closes the trail now.
    pub(super) fn close(&self) -> Result<Receipt, CloseError> {
        process::check()?;
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let threads = threads.ok_or(CloseError::WriterStopped)?;
        // The application queues its last records while they are still accepted. It settles again
        // once the trail has answered.
        self.shared.application.settled();
        let outcome = threads.finish(&self.shared);
        self.shared.application.settled();
        outcome
    }
}

impl<A: Application> Drop for Keeper<A> {
    fn drop(&mut self) {
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(threads) = threads.take() else {
            return;
        };
        if process::check().is_err() {
            // The threads are not in this process, so their handles must not touch them.
            let _left = ManuallyDrop::new(threads);
            return;
        }
        if !threads.is_waited_for_here() {
            return threads.conclude(&self.shared);
        }
        let shared = Arc::clone(&self.shared);
        let closing = threads::Builder::new()
            .name("vram-audit-end".into())
            .spawn(move || threads.conclude(&shared));
        if closing.is_err() {
            // The writer closes the trail by itself, and its result is not reported.
            self.shared.queue.close(self.shared.deadline().1);
        }
    }
}

impl Threads {
    /// Returns whether closing waits for the current thread: for the writer, or for foreign code to
    /// return.
    fn is_waited_for_here(&self) -> bool {
        foreign::is_inside() || self.writer.thread().id() == threads::current().id()
    }

    /// Closes, and logs any error, since no caller gets it.
    fn conclude<A: Application>(self, shared: &Arc<Shared<A>>) {
        if let Err(error) = self.finish(shared) {
            foreign::log(move || {
                tracing::error!(target: crate::LOG, %error, "the audit trail was dropped and did not close well");
            });
            foreign::settle_briefly();
        }
    }

    fn finish<A: Application>(self, shared: &Arc<Shared<A>>) -> Result<Receipt, CloseError> {
        let (started, deadline) = shared.deadline();
        // The writer gives up earlier, so that it can still report the losses. Only a hanging
        // system call delays it further.
        let limit = shared.settings.critical_deadline;
        let margin = limit.checked_div(4).unwrap_or(limit);
        shared
            .queue
            .close(deadline.checked_sub(margin).unwrap_or(deadline));
        let stopped = shared.queue.wait_stopped(deadline);
        shared.anchors.close(deadline);
        if !stopped {
            return Err(CloseError::TimedOut {
                waited: started.elapsed(),
            });
        }
        // After the writer's end, no other code would reset what it published last.
        shared.vitals.end();
        shared.publish_all();
        let outcome = self.writer.join().unwrap_or(Err(CloseError::WriterStopped));
        if let Some(hook) = self.hook {
            hook.wait(deadline);
        }
        foreign::settle(deadline.saturating_duration_since(Instant::now()));
        outcome
    }
}

impl<A: Application> Shared<A> {
    /// Returns the current time, and the time limit of a call that waits for the writer.
    fn deadline(&self) -> (Instant, Instant) {
        let now = Instant::now();
        let limit = self.settings.critical_deadline;
        (now, now.checked_add(limit).unwrap_or(now))
    }
}

impl<A: Application> fmt::Debug for Keeper<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(all(shuttle, feature = "shuttle"))))]
mod tests {
    use super::*;
    use crate::application::{NoEntry, NoFields};
    use crate::key::TrailKey;
    use crate::{Recorder, Trail, TrailBuilder, verify};

    /// An application that drops a handle when the writer calls it.
    #[derive(Debug, Default)]
    struct DropsItsHandle(std::sync::Mutex<Option<Recorder<Self>>>);

    impl Application for DropsItsHandle {
        type Entry = NoEntry;
        type Opening = NoFields;
        type Closing = NoFields;
        type Handle = Trail<Self>;

        fn opening(&self) -> NoFields {
            NoFields {}
        }

        fn closing(&self) -> NoFields {
            NoFields {}
        }

        fn tick(&self) {
            drop(self.0.lock().unwrap().take());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens a trail: the kernel and the C library")]
    fn the_writer_that_drops_the_last_handle_closes_the_trail() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("trail");
        let key = TrailKey::open_or_create(temp.path().join("key.pem")).unwrap();
        let application = Arc::new(DropsItsHandle::default());
        let worker = "worker-1".parse().unwrap();
        let trail = TrailBuilder::new(Arc::clone(&application), worker, &dir, key)
            .open_or_create()
            .unwrap();
        let key = trail.verifier_key().clone();
        *application.0.lock().unwrap() = Some(trail.recorder());
        drop(trail);
        let started = Instant::now();
        while !verify(&dir, std::slice::from_ref(&key), &[]).closed {
            let waited = started.elapsed();
            assert!(waited < std::time::Duration::from_secs(4), "{waited:?}");
            threads::sleep(std::time::Duration::from_millis(5));
        }
    }
}
