//! How the recording of an open trail stands: how far it is durable and anchored, what waits, what was
//! lost.
//!
//! For a worker that acts on it, in its check of readiness for instance. The same reaches a metrics
//! exporter through [`health`](crate::health): what is published there is handed over here, without
//! waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::anchor::Anchored;
use super::{Checkpoint, Shared, Trail};
use crate::application::Application;
use crate::health::{self, AuditCounts, Backlog};
use crate::{foreign, process};

impl<A: Application> Trail<A> {
    /// The newest checkpoint that is on disk; none in a forked child.
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        process::check().ok()?;
        self.shared.queue.newest_checkpoint()
    }

    /// The newest checkpoint that an anchor keeps, besides the log: what lies behind it could still be
    /// cut off unnoticed. None if no anchor has said that it keeps one, and in a forked child.
    pub fn anchored_until(&self) -> Option<Anchored> {
        process::check().ok()?;
        self.shared.anchors.kept()
    }

    /// The age of the oldest record that no anchor covers, besides the log, durable or not. Zero if
    /// there is none, if there is no such anchor, and in a forked child.
    pub fn unanchored_for(&self) -> Duration {
        process::check().map_or(Duration::ZERO, |()| {
            let waiting = self.shared.queue.backlog().oldest;
            self.shared.anchors.unanchored(waiting)
        })
    }

    /// What waits to become durable: how many records, and the age of the oldest. A kill now would lose
    /// them. Nothing waits in a forked child.
    ///
    /// A worker whose disk is full goes on serving, and loses nothing until its queue is full: this is
    /// where it shows. Build a check of readiness on it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use vram_trail::Trail;
    /// fn is_ready(trail: &Trail) -> bool {
    ///     trail.backlog().oldest < Duration::from_secs(60)
    /// }
    /// ```
    pub fn backlog(&self) -> Backlog {
        process::check().map_or(Backlog::default(), |()| self.shared.queue.backlog())
    }

    /// What was given to the trail, and what was lost, since it was opened.
    pub fn counts(&self) -> AuditCounts {
        self.shared.counts()
    }
}

impl<A: Application> Shared<A> {
    /// Lets the counters be published. One call that waits is enough: it reads them when its turn comes.
    pub(super) fn publish_counters(self: &Arc<Self>) {
        self.publish_once(
            |shared| &shared.vitals.counters_wait,
            |shared| health::publish_counters(&shared.worker, &shared.queue.counters),
        );
    }

    /// Lets the gauges be published, too, and looks for a log.
    pub(super) fn publish_all(self: &Arc<Self>) {
        self.publish_once(|shared| &shared.vitals.all_wait, Self::publish);
    }

    /// Hands a call over, unless such a call `waits` already.
    fn publish_once(self: &Arc<Self>, waits: fn(&Self) -> &AtomicBool, publish: fn(&Self)) {
        if waits(self).swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(self);
        let is_handed_over = foreign::publish(move || {
            if let Some(shared) = shared.upgrade() {
                waits(&shared).store(false, Ordering::Release);
                publish(&shared);
            }
        });
        if !is_handed_over {
            waits(self).store(false, Ordering::Release);
        }
    }

    /// On the thread that publishes.
    fn publish(&self) {
        let vitals = &self.vitals;
        let backlog = self.queue.backlog();
        self.anchors.look_for_log();
        let unanchored = self.anchors.unanchored(backlog.oldest);
        health::publish_counters(&self.worker, &self.queue.counters);
        health::publish_gauges(&self.worker, vitals.is_degraded(), backlog, unanchored);
        health::publish_heartbeat(&self.worker, vitals.heartbeat());
        health::describe();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::key::TrailKey;

    /// As where foreign code records and there is no room: what it did not publish must not wait for ever.
    #[test]
    #[cfg_attr(miri, ignore = "opens a trail: the kernel and the C library")]
    fn what_could_not_be_handed_over_keeps_nothing_later_from_being_published() {
        let temp = tempfile::tempdir().unwrap();
        let key = TrailKey::open_or_create(temp.path().join("key.pem")).unwrap();
        let trail = Trail::builder("worker-1".parse().unwrap(), temp.path().join("trail"), key)
            .open_or_create()
            .unwrap();
        foreign::call(|| {
            trail.shared.publish_counters();
            trail.shared.publish_all();
        })
        .unwrap();
        // The writer publishes, too, and what it has handed over waits for its turn.
        let vitals = &trail.shared.vitals;
        let patience = Instant::now() + Duration::from_secs(20);
        for waits in [&vitals.counters_wait, &vitals.all_wait] {
            while waits.load(Ordering::Acquire) {
                assert!(Instant::now() < patience, "it waits for ever");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        trail.close().unwrap();
    }
}
