//! What a trail is kept for: the entries of its application, and what the trail asks the application.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;

use crate::Trail;
use crate::event::Severity;
use crate::segment::MAX_LINE_BYTES;

/// The most bytes that the JSON of an entry, or of [`Application::Closing`], may have.
pub const MAX_ENTRY_BYTES: usize = MAX_LINE_BYTES - 1024;

/// The most bytes that the JSON of [`Application::Opening`] may have.
pub const MAX_OPENING_BYTES: usize = 512;

/// What an application records.
///
/// It is a serde structure: its fields become those of a record, behind the fields that all records have
/// (`seq`, `time`, `mono_us`, `boot`, `worker`, `event`, `severity`, `outcome`, `by`). It must not have a
/// field of these names or of the name `offset`. Its JSON has at most [`MAX_ENTRY_BYTES`]: the record of a longer
/// one, or of one that serde cannot write, has a field `unwritable` with the reason in place of its fields. Texts of
/// unknown length are [`Text`](crate::Text)s. It is moved through the queue: what is large belongs into a box.
pub trait Entry: Clone + Debug + Send + Serialize + 'static {
    /// The name of the event, such as `ModelLoaded`. It must not be one of [`OWN_EVENTS`](crate::OWN_EVENTS).
    fn name(&self) -> &'static str;

    /// How bad it is. Everything above [`Severity::Info`] has the outcome `failure`.
    fn severity(&self) -> Severity;

    /// Whether it reports a failed verification, which has a
    /// [counter](crate::health::VERIFICATION_FAILURES) of its own.
    fn is_failed_verification(&self) -> bool {
        false
    }
}

/// The application whose trail it is. Everything here is called on threads that must not wait: none of it
/// may block, panic, or record and wait for that.
pub trait Application: Debug + Send + Sync + Sized + 'static {
    /// What it records.
    type Entry: Entry;
    /// Its fields in `TrailOpened`.
    type Opening: Clone + Debug + Send + Serialize + 'static;
    /// Its fields in `TrailClosed`.
    type Closing: Clone + Debug + Send + Serialize + 'static;
    /// What opening returns: the [`Trail`], or a type around it that hides which entries can be recorded.
    type Handle: From<Trail<Self>>;

    /// Its fields in `TrailOpened`, such as its version and settings.
    fn opening(&self) -> Self::Opening;

    /// Its fields in `TrailClosed`, such as what is still in use.
    fn closing(&self) -> Self::Closing;

    /// Called by the writer twice in each durability interval, and every few seconds at least.
    fn tick(&self) {}

    /// Called by the writer when it has made records durable, or has failed to.
    fn settled(&self) {}
}

/// No application: a trail of notes and policy violations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

/// The entries of [`Plain`]: there are none.
#[derive(Clone, Debug, Serialize)]
pub enum NoEntry {}

/// Fields of [`Plain`]: there are none.
#[derive(Clone, Debug, Serialize)]
pub struct NoFields {}

impl Entry for NoEntry {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn severity(&self) -> Severity {
        match *self {}
    }
}

impl Application for Plain {
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
}

impl Trail<Plain> {
    /// Begins to open or create a trail of notes and policy violations.
    pub fn builder(
        worker: crate::id::WorkerId,
        dir: impl AsRef<std::path::Path>,
        key: crate::key::TrailKey,
    ) -> crate::TrailBuilder<Plain> {
        crate::TrailBuilder::new(Arc::new(Plain), worker, dir, key)
    }
}
