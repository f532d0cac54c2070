//! The living shards of one trail: their names, their served state, and their verifications without
//! an outcome.
//!
//! The trail's writer calls it regularly ([`Registry::tick`]), and lists it when the trail closes.
//! It does not know how records reach the disk, nor where a shard's memory lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vram_trail::process;

use crate::event::{Closing, LiveShard, MAX_LISTED_SHARDS, Subject};
use crate::id::ShardId;
use crate::verification::AllTimed;

pub(crate) use self::lease_validity::{LastCheck, Standing};

mod lease_validity;

/// The registries of this process. A lost device is lost for all trails.
static ALL: Mutex<Vec<Weak<Registry>>> = Mutex::new(Vec::new());

/// Records events of shards, and keeps the trail open.
pub(crate) type Recorder = vram_trail::Recorder<Registry>;

/// The living shards of one trail.
#[derive(Debug)]
pub struct Registry {
    live: Mutex<Live>,
    timed: AllTimed,
    /// How many verifications have no outcome yet.
    open: AtomicU64,
}

#[derive(Debug, Default)]
struct Live {
    allocations: u64,
    shards: HashMap<ShardId, Entry>,
}

#[derive(Debug)]
struct Entry {
    shard: LiveShard,
    /// Its device was lost, and that is recorded.
    is_lost: bool,
    /// Empty unless the shard is shared, and after its device was lost.
    standing: Weak<Standing>,
    /// Its leases run out without a check.
    can_be_overdue: bool,
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        let registry = Arc::new(Self {
            live: Mutex::default(),
            timed: AllTimed::default(),
            open: AtomicU64::new(0),
        });
        let mut all = all();
        all.retain(|entry| entry.strong_count() > 0);
        all.push(Arc::downgrade(&registry));
        registry
    }

    /// Gives an allocation its number, unless a live shard has the same name.
    pub(crate) fn admit(&self, shard: &ShardId, device: &Arc<str>, bytes: u64) -> Option<Subject> {
        let mut live = self.live();
        if live.shards.contains_key(shard) {
            return None;
        }
        live.allocations = live.allocations.saturating_add(1);
        let subject = Subject::new(shard.clone(), live.allocations, Arc::clone(device));
        let entry = Entry {
            shard: LiveShard {
                subject: subject.clone(),
                bytes,
            },
            is_lost: false,
            standing: Weak::new(),
            can_be_overdue: false,
        };
        live.shards.insert(shard.clone(), entry);
        Some(subject)
    }

    /// Removes the shard, whose memory is gone. Its name is free again.
    pub(crate) fn retire(&self, subject: &Subject) {
        let mut live = self.live();
        if live.entry(subject).is_some() {
            live.shards.remove(&subject.shard);
        }
    }

    /// Notes that the shard is shared.
    pub(crate) fn share(&self, subject: &Subject, standing: &Arc<Standing>) {
        // In a child the lock may be held for ever, and no lease is good.
        if process::check().is_ok()
            && let Some(entry) = self.live().entry(subject)
        {
            entry.standing = Arc::downgrade(standing);
            entry.can_be_overdue = standing.can_be_overdue();
        }
    }

    /// Marks the live shards on a lost device, except `own`, and returns those that were not marked before.
    pub(crate) fn take_lost(&self, device: &str, own: Option<&Subject>) -> Vec<Subject> {
        let mut live = self.live();
        let mut fresh: Vec<Subject> = live
            .shards
            .values_mut()
            .filter(|entry| &*entry.shard.subject.device == device)
            .filter_map(|entry| {
                let is_known = std::mem::replace(&mut entry.is_lost, true);
                (!is_known).then(|| entry.shard.subject.clone())
            })
            .filter(|subject| !own.is_some_and(|own| own.is(subject)))
            .collect();
        fresh.sort_by_key(|subject| subject.allocation);
        fresh
    }

    /// Takes the standings of shared shards on a lost device, except `own`, in all trails of this
    /// process. Returns each once.
    pub(crate) fn take_served(device: &str, own: Option<&Subject>) -> Vec<Arc<Standing>> {
        let all: Vec<_> = all().iter().filter_map(Weak::upgrade).collect();
        let mut served: Vec<Arc<Standing>> = Vec::new();
        for registry in all {
            let mut live = registry.live();
            let on_it = live.shards.values_mut().filter(|entry| {
                let subject = &entry.shard.subject;
                &*subject.device == device && !own.is_some_and(|own| own.is(subject))
            });
            served.extend(on_it.filter_map(|entry| std::mem::take(&mut entry.standing).upgrade()));
        }
        served.sort_by_key(|standing| standing.subject().allocation);
        served
    }

    pub(crate) fn timed(&self) -> &AllTimed {
        &self.timed
    }

    pub(crate) fn verification_begins(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn verification_ends(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Finds overdue leases and late checks. The writer calls it twice in each durability interval.
    /// Never waits.
    pub(crate) fn tick(&self) {
        let watched: Vec<_> = {
            let live = self.live();
            let watched = live.shards.values().filter(|entry| entry.can_be_overdue);
            watched.map(|entry| Weak::clone(&entry.standing)).collect()
        };
        // Not under the lock, and each only as long as needed: this may drop the last handle on a
        // trail, whose user then does not wait for `TrailClosed`.
        for standing in watched {
            if let Some(standing) = standing.upgrade() {
                standing.tick();
            }
        }
        self.timed.look();
    }

    /// Ends leases of checks that were late, if the trail has answered. Never waits.
    pub(crate) fn look_at_late(&self) {
        self.timed.look();
    }

    /// Returns the shards that still live: they were leaked, or outlive the trail.
    pub(crate) fn closing(&self) -> Closing {
        let mut live: Vec<LiveShard> = self
            .live()
            .shards
            .values()
            .map(|entry| entry.shard.clone())
            .collect();
        live.sort_by_key(|shard| shard.subject.allocation);
        let live_shards = u64::try_from(live.len()).unwrap_or(u64::MAX);
        live.truncate(MAX_LISTED_SHARDS);
        Closing {
            live_shards,
            live,
            open_verifications: self.open.load(Ordering::Relaxed),
        }
    }

    /// No code panics while it holds the lock, so a poisoned lock protects consistent data.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Returns the entry of exactly this allocation: another one may have the name by now.
    fn entry(&mut self, subject: &Subject) -> Option<&mut Entry> {
        let entry = self.shards.get_mut(&subject.shard)?;
        (entry.shard.subject.allocation == subject.allocation).then_some(entry)
    }
}

fn all() -> MutexGuard<'static, Vec<Weak<Registry>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}
