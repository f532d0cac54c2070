//! How far a trail is durable, how far anchors have got it, and how far one of them keeps it.
//!
//! These three determine when a checkpoint is due, and since when there have been records that no
//! anchor covers. This module knows no thread and no lock.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::super::checkpoint::Checkpoint;
use super::super::clock::Uptime;
use super::Anchored;

/// When anchors get a checkpoint, apart from those of critical records and of closing.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Schedule {
    pub(in super::super) every_records: u64,
    pub(in super::super) every: Duration,
    /// The time after which a call counts as hanging.
    pub(in super::super) patience: Duration,
}

/// A checkpoint that is durable.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) checkpoint: Arc<Checkpoint>,
    /// When the first record behind it was made. Set once that record is durable, too.
    pub(super) next_made: Arc<OnceLock<Uptime>>,
}

/// How far the trail is durable, given to anchors, and kept by one.
#[derive(Debug)]
pub(super) struct Book {
    durable: u64,
    pub(super) offered: Option<Arc<Checkpoint>>,
    offered_at: Uptime,
    /// The same for the previous offer.
    next_made: Arc<OnceLock<Uptime>>,
    pub(super) kept: Option<Anchored>,
    /// When the oldest durable record was made that no anchor keeps.
    pub(super) behind: Option<Uptime>,
}

impl Book {
    /// Starts with a trail of so many leaves, none of them known to be kept by an anchor.
    pub(super) fn new(durable: u64, now: Uptime) -> Self {
        Self {
            durable,
            offered: None,
            offered_at: now,
            next_made: Arc::default(),
            kept: None,
            behind: (durable > 0).then_some(now),
        }
    }

    /// Takes the newest durable checkpoint, and returns the offer to be handed over. Of the records
    /// that are new in `checkpoint`, the oldest was `made` at that time.
    pub(super) fn settle(
        &mut self,
        checkpoint: &Arc<Checkpoint>,
        made: Uptime,
        urgent: bool,
        schedule: &Schedule,
    ) -> Option<Offer> {
        let now = Uptime::now();
        let size = checkpoint.size();
        let kept = self.kept.as_ref().map_or(0, |kept| kept.checkpoint.size());
        if size > self.durable {
            self.durable = size;
            self.next_made.get_or_init(|| made);
        }
        if self.durable > kept {
            self.behind.get_or_insert(made);
        }
        let offered = self.offered.as_ref().map_or(0, |offered| offered.size());
        let fresh = size.saturating_sub(offered);
        let due = fresh > 0
            && (urgent
                || self.offered.is_none()
                || fresh >= schedule.every_records
                || now.since(self.offered_at) >= schedule.every);
        due.then(|| {
            self.offered = Some(Arc::clone(checkpoint));
            self.offered_at = now;
            self.next_made = Arc::default();
            Offer {
                checkpoint: Arc::clone(checkpoint),
                next_made: Arc::clone(&self.next_made),
            }
        })
    }

    /// Notes that an anchor keeps this checkpoint.
    pub(super) fn keep(&mut self, anchor: &Arc<str>, offer: &Offer) {
        let size = offer.checkpoint.size();
        let kept = self.kept.as_ref().map(|kept| kept.checkpoint.size());
        if kept.is_some_and(|kept| kept >= size) {
            return;
        }
        self.kept = Some(Anchored {
            anchor: Arc::clone(anchor),
            checkpoint: Arc::clone(&offer.checkpoint),
            at: SystemTime::now(),
        });
        let next_made = || *offer.next_made.get_or_init(Uptime::now);
        self.behind = (self.durable > size).then(next_made);
    }
}
