//! The status of an open trail: how far it is durable and anchored, what waits, and what was lost.
//!
//! It is for a process that reacts to it, for instance in a readiness check. A metrics exporter
//! gets the same through [`health`](crate::health). Its values are copied without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::anchor::Anchored;
use super::{Checkpoint, Shared, Trail};
use crate::application::Application;
use crate::health::{self, AuditCounts, Backlog};
use crate::{foreign, process};

impl<A: Application> Trail<A> {
    /// Returns the newest checkpoint that is on disk, or `None` in a forked child.
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        process::check().ok()?;
        self.shared.queue.newest_checkpoint()
    }

    /// Returns the newest checkpoint that an anchor, other than the log, keeps. Records behind it
    /// could still be cut off unnoticed. `None` if no anchor has acknowledged one, and in a forked
    /// child.
    pub fn anchored_until(&self) -> Option<Anchored> {
        process::check().ok()?;
        self.shared.anchors.kept()
    }

    /// Returns the age of the oldest record, durable or not, that no anchor other than the log
    /// covers. Zero if there is none, if there is no such anchor, and in a forked child.
    pub fn unanchored_for(&self) -> Duration {
        process::check().map_or(Duration::ZERO, |()| {
            let waiting = self.shared.queue.backlog().oldest;
            self.shared.anchors.unanchored(waiting)
        })
    }

    /// Returns how many records wait to become durable, and the age of the oldest. A kill now would
    /// lose them. Zero in a forked child.
    ///
    /// A process whose disk is full goes on, and loses nothing until its queue is full. Until then,
    /// only this value shows the fault. Build a readiness check on it:
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

    /// Returns how many records were given to the trail, and how many were lost, since it was
    /// opened.
    pub fn counts(&self) -> AuditCounts {
        self.shared.counts()
    }
}

impl<A: Application> Shared<A> {
    /// Requests publication of the counters. One waiting call is enough, since it reads them when
    /// it runs.
    pub(super) fn publish_counters(self: &Arc<Self>) {
        self.publish_once(
            |shared| &shared.vitals.counters_wait,
            |shared| health::publish_counters(&shared.worker, &shared.queue.counters),
        );
    }

    /// Requests publication of the gauges, too, and a check for a log.
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

    /// Runs on the thread that publishes.
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

#[cfg(all(test, not(all(shuttle, feature = "shuttle"))))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::key::TrailKey;

    /// As where foreign code records and there is no room: an unpublished value must not block
    /// later ones for ever.
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
        // The writer publishes, too, and its values wait for their turn.
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
