//! Finds the end of a trail that an earlier run left: its last acknowledged checkpoint, and the
//! torn tail behind it.

use std::sync::Arc;

use super::error::SYNC_DIRECTORY;
use super::{End, OpenError, failed};
use crate::application::Application;
use crate::builder::TrailBuilder;
use crate::event::{Event, FORMAT, Seq};
use crate::position::Position;
use crate::segment::{self, Fact, MAX_SEQ, Seen};
use crate::storage::{Storage, segment_name};

impl<A: Application> TrailBuilder<A> {
    /// Reads the last segment and finds the point behind which the trail continues.
    pub(super) fn find_end<S: Storage>(&self, storage: &S, last: u64) -> Result<End<A>, OpenError> {
        let damaged = |detail: &str| OpenError::Damaged {
            path: self.dir.clone(),
            segment: segment_name(last),
            detail: detail.to_owned(),
        };
        let io = |source| OpenError::Io {
            path: self.dir.join(segment_name(last)),
            operation: "read",
            source,
        };
        // The run that wrote this may have been killed before its last sync. New records will rest
        // on it, so it must be on disk, and not only in the page cache.
        let segment = self.dir.join(segment_name(last));
        storage.sync(last).map_err(failed(&segment, "sync"))?;
        storage
            .sync_names()
            .map_err(failed(&self.dir, SYNC_DIRECTORY))?;
        let header = segment::read_header(storage.read(last).map_err(io)?)
            .map_err(io)?
            .ok_or_else(|| damaged("its first line is not the header of a segment"))?;
        if header.format > FORMAT {
            return Err(OpenError::LaterFormat {
                path: self.dir.clone(),
                format: header.format,
            });
        }
        let verifier = self.key_of(&header)?;
        let mut tail = Tail::default();
        let mut acknowledged = Tail::default();
        let summary = segment::read(
            storage.read(last).map_err(io)?,
            last,
            std::slice::from_ref(&verifier),
            None,
            &mut |seen| match seen {
                Seen::Record(_, record, _) => tail.add(record),
                Seen::Acknowledged(_) => acknowledged.clone_from(&tail),
                Seen::Start(_) => {}
            },
        )
        .map_err(io)?;
        if let Some(damage) = summary.damage.first() {
            return Err(damaged(&format!(
                "line {}: {}",
                damage.place.line, damage.words
            )));
        }
        let next = acknowledged
            .next(summary.highest_seq)
            .filter(|next| *next <= MAX_SEQ)
            .ok_or_else(|| damaged("its numbers are not those of a trail"))?;
        let checkpoint = summary
            .checkpoint
            .ok_or_else(|| damaged("it has no checkpoint that this key signed and that fits"))?;
        let is_under_another_key = self.has_yet_to_change(&verifier, &acknowledged.latest)?;
        let mut position = Position::new(
            last,
            summary.end,
            summary.behind.bytes,
            summary.frontier,
            Arc::new(checkpoint),
        );
        self.declare_void(storage, &mut position)?;
        let clean = matches!(acknowledged.latest, Latest::Closed) && summary.behind.bytes == 0;
        let recovered = (!clean).then_some(Event::TailRecovered {
            segment: last,
            void_from: summary.end,
            void_bytes: summary.behind.bytes,
            void_records: summary.behind.records,
            highest_seq: Seq(next.saturating_sub(1)),
        });
        Ok(End {
            next: Seq(next),
            verifier,
            position: Some(position),
            recovered,
            is_under_another_key,
        })
    }
}

/// The facts in records about how the trail continues.
#[derive(Clone, Default)]
struct Tail {
    latest: Latest,
    highest: Option<u64>,
    /// The bound of the numbers. `None` in format 1.
    below: Option<u64>,
}

impl Tail {
    fn add(&mut self, record: &segment::Record) {
        self.latest = Latest::of(record);
        self.highest = self.highest.max(Some(record.seq));
        self.below = self.below.max(match &record.fact {
            Fact::Header(header) => header.bound(),
            Fact::Reserved(reserved) if self.below.is_some() => Some(reserved.numbers_below),
            _ => None,
        });
    }

    /// Returns the first number of the next run. The bound limits the numbers that a killed run may
    /// have given to its callers. For format 1 only the highest `seen` is known, void bytes
    /// included.
    fn next(&self, seen: Option<u64>) -> Option<u64> {
        let after = |highest: Option<u64>| highest?.checked_add(1);
        match (self.below, &self.latest) {
            (None, _) => after(seen),
            (Some(_), Latest::Closed) => after(self.highest),
            (below, _) => below.max(after(self.highest)),
        }
    }
}

/// How the trail continues, by the last acknowledged record.
#[derive(Clone, Default)]
pub(super) enum Latest {
    Closed,
    KeyChanged(String),
    #[default]
    Other,
}

impl Latest {
    fn of(record: &segment::Record) -> Self {
        match &record.fact {
            Fact::KeyChanged(changed) => Self::KeyChanged(changed.key.clone()),
            Fact::Closed(_) => Self::Closed,
            _ => Self::Other,
        }
    }
}
