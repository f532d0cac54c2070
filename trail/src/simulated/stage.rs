//! A trail on a simulated disk, for tests of threads, here and in crates that record.

use std::sync::Arc;
use std::time::Duration;

use super::Disk;
use crate::application::Application;
use crate::builder::TrailBuilder;
use crate::keeper::{Keeper, Threads};
use crate::key::TrailKey;
use crate::storage::Presence;
use crate::threads::{self, Instant};
use crate::writer::{StopOnDrop, Writer};
use crate::{Recorder, Shared, Trail};

/// A time limit that no test reaches.
const LONG: Duration = Duration::from_secs(600);

/// An open trail whose writer has no thread yet.
#[derive(Debug)]
pub struct Stage<A: Application> {
    shared: Arc<Shared<A>>,
    disk: Disk,
}

/// The writer of a [`Stage`].
#[derive(Debug)]
pub struct Staged<A: Application>(Writer<A, Disk>, Arc<Shared<A>>);

impl<A: Application> Stage<A> {
    /// Opens a trail with room for `records`. `meanwhile` runs in each call of the disk.
    pub fn open(
        application: Arc<A>,
        key: TrailKey,
        seed: u64,
        records: usize,
        meanwhile: impl FnMut() + Send + 'static,
    ) -> (Self, Staged<A>) {
        let disk = Disk::new(seed);
        disk.meanwhile(Some(Box::new(meanwhile)));
        let builder = TrailBuilder::new(application, "w".parse().unwrap(), "/simulated", key);
        let builder = builder.queue_records(records);
        let (writer, shared) = builder.prepare(disk.clone(), Presence::Either).unwrap();
        let staged = Staged(writer, Arc::clone(&shared));
        (Self { shared, disk }, staged)
    }

    /// Returns a handle that does not keep the trail open.
    pub fn recorder(&self) -> Recorder<A> {
        Recorder {
            shared: Arc::clone(&self.shared),
            _keeper: Arc::new(Keeper::of_none(Arc::clone(&self.shared))),
        }
    }

    /// Returns whether a named segment holds these bytes on the medium.
    pub fn medium_holds(&self, bytes: &[u8]) -> bool {
        self.disk.medium_holds(bytes)
    }

    /// Returns whether the writer has ended.
    pub fn is_stopped(&self) -> bool {
        self.shared.queue.wait_stopped(Instant::now())
    }

    /// Drops the action that runs in each call of the disk.
    pub fn end(&self) {
        self.disk.meanwhile(None);
    }
}

impl<A: Application> Clone for Stage<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            disk: self.disk.clone(),
        }
    }
}

impl<A: Application> Staged<A> {
    /// Starts the writer's thread.
    pub fn start(self) -> Trail<A> {
        let Self(writer, shared) = self;
        let threads = Threads {
            writer: threads::Builder::new().spawn(move || writer.run()).unwrap(),
            hook: None,
        };
        let keeper = Arc::new(Keeper::new(Arc::clone(&shared), threads));
        Trail { shared, keeper }
    }

    /// Works `times` on this thread, and dies.
    pub fn work_and_die(self, times: usize) {
        let Self(mut writer, shared) = self;
        let _stopped = StopOnDrop(Arc::clone(&shared));
        for _ in 0..times {
            shared.application.tick();
            writer.drain(Instant::now() + LONG);
        }
    }
}
