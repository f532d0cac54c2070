//! What the events and fields of a trail mean, with units, and who says so.
//!
//! Fields that newer versions add are named as unknown, and never hidden.

pub(super) use table::ORIGIN;
use table::{EVENTS, FIELDS, OF_EVENTS};

mod table;

const UNKNOWN_FIELD: &str = "not known to this version of vram-audit";

/// What happened when this event is recorded.
pub(super) fn event(name: &str) -> &'static str {
    let found = EVENTS.iter().find(|(event, _)| *event == name);
    found.map_or(
        "an event that this version of vram-audit does not know",
        |(_, words)| words,
    )
}

/// The names of the events that this version knows.
pub(crate) fn event_names() -> impl Iterator<Item = &'static str> {
    EVENTS.iter().map(|(name, _)| *name)
}

/// What a field of this event means.
pub(super) fn field(event: &str, name: &str) -> &'static str {
    let own = OF_EVENTS
        .iter()
        .find(|(events, field, _)| *field == name && events.contains(&event));
    let general = || FIELDS.iter().find(|(field, _)| *field == name);
    own.map(|(_, _, words)| *words)
        .or_else(|| general().map(|(_, words)| *words))
        .unwrap_or(UNKNOWN_FIELD)
}

#[cfg(test)]
mod tests;
