//! The meaning of a trail's events and fields, with units, and their author.
//!
//! Fields of newer versions are named as unknown, and never hidden.

pub(super) use table::ORIGIN;
use table::{EVENTS, FIELDS, OF_EVENTS};

mod table;

const UNKNOWN_FIELD: &str = "not known to this version of vram-audit";

/// Explains what an event reports.
pub(super) fn event(name: &str) -> &'static str {
    let found = EVENTS.iter().find(|(event, _)| *event == name);
    found.map_or(
        "an event that this version of vram-audit does not know",
        |(_, words)| words,
    )
}

/// Returns the names of the events that this version knows.
pub(crate) fn event_names() -> impl Iterator<Item = &'static str> {
    EVENTS.iter().map(|(name, _)| *name)
}

/// Explains a field of this event.
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
