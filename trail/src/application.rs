//! What a trail needs to know of the application that uses it: its entries, and the fields that it
//! states when the trail opens and closes. What the entries mean is not known here.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;

use crate::Trail;
use crate::event::Severity;
use crate::segment::MAX_LINE_BYTES;

/// The most bytes that the JSON of an entry or of [`Application::Closing`] may have.
pub const MAX_ENTRY_BYTES: usize = MAX_LINE_BYTES - 1024;

/// The most bytes that the JSON of [`Application::Opening`] may have.
pub const MAX_OPENING_BYTES: usize = 512;

/// An entry that an application records.
///
/// It is a serde structure. Its fields follow the fields that all records have (`seq`, `time`,
/// `mono_us`, `boot`, `worker`, `event`, `severity`, `outcome`, `by`). It must not have a field
/// with one of these names or with the name `offset`.
///
/// Its JSON has at most [`MAX_ENTRY_BYTES`] bytes. If it is longer, or if serde cannot write it,
/// the record has a field `unwritable` with the reason in place of the entry's fields. A text of
/// unknown length is a [`Text`](crate::Text). Entries are moved through the queue, so put large
/// ones into a box.
///
/// # Requires
///
/// The trail does not check the following, and [`verify`](crate::verify) refuses a trail that
/// breaks it, after the record has got its receipt:
///
/// * The JSON follows the [format](mod@crate::format): no floating-point number, no `null`, no
///   field twice, no integer outside of 64 bits, at most 16 levels.
/// * `name` has at most 64 ASCII letters and digits. An entry that is named as one of the trail's
///   own events is read as that event.
/// * `name`, `severity` and `is_failed_verification` are called under the queue's lock: they must
///   not record, log or wait.
/// * The writer's thread serializes and drops entries. A panic there ends the writer, and every
///   later record is lost and counted.
pub trait Entry: Debug + Send + Serialize + 'static {
    /// Returns the name of the event, such as `ModelLoaded`. It must not be one of
    /// [`OWN_EVENTS`](crate::OWN_EVENTS), except `PolicyViolation` with the fields of that event.
    fn name(&self) -> &'static str;

    /// Returns the severity. An entry above [`Severity::Info`] has the outcome `failure`.
    fn severity(&self) -> Severity;

    /// Returns whether the entry reports a failed verification, which has a
    /// [counter](crate::health::VERIFICATION_FAILURES) of its own.
    fn is_failed_verification(&self) -> bool {
        false
    }
}

/// The application that uses a trail. Its methods are called on threads that must not wait. They
/// must not block, panic, or record an entry and wait for it. A panic ends the writer. `opening`
/// runs on the thread that opens the trail, once; `closing` may run several times.
pub trait Application: Debug + Send + Sync + Sized + 'static {
    /// The type of its entries.
    type Entry: Entry;
    /// The type of its fields in `TrailOpened`.
    type Opening: Debug + Send + Serialize + 'static;
    /// The type of its fields in `TrailClosed`.
    type Closing: Debug + Send + Serialize + 'static;
    /// What opening returns: the [`Trail`], or a type around it that restricts which entries can be
    /// recorded.
    type Handle: From<Trail<Self>>;

    /// Returns its fields in `TrailOpened`, such as its version and settings.
    fn opening(&self) -> Self::Opening;

    /// Returns its fields in `TrailClosed`, such as what is still in use.
    fn closing(&self) -> Self::Closing;

    /// Runs twice in each durability interval, and every few seconds at least. The writer calls it.
    fn tick(&self) {}

    /// Runs after the writer has made records durable, or has failed to.
    fn settled(&self) {}
}

/// The absence of an application: a trail of notes and policy violations only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

/// The entries of [`Plain`]. There are none.
#[derive(Clone, Debug, Serialize)]
pub enum NoEntry {}

/// The fields of [`Plain`] in `TrailOpened` and `TrailClosed`. There are none.
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
    /// Begins to open or create a trail of notes and policy violations, without entries of an
    /// application.
    pub fn builder(
        worker: crate::id::WorkerId,
        dir: impl AsRef<std::path::Path>,
        key: crate::key::TrailKey,
    ) -> crate::TrailBuilder<Plain> {
        crate::TrailBuilder::new(Arc::new(Plain), worker, dir, key)
    }
}
