//! Every event and field has words, in the order in which they are looked up.

use super::*;

#[test]
fn the_lists_are_sorted_and_name_everything_once() {
    assert!(EVENTS.is_sorted_by(|a, b| a.0 < b.0));
    assert!(FIELDS.is_sorted_by(|a, b| a.0 < b.0));
}

/// The library's own source: which events there are, each with its fields.
fn events() -> impl Iterator<Item = &'static str> {
    let source = include_str!("../../../../audit/event.rs");
    let (_, events) = source.split_once("pub(crate) enum Event {").unwrap();
    let (events, _) = events.split_once("impl Event {").unwrap();
    events.lines().map(str::trim)
}

/// The fields that several share, and those of events with many.
fn shared_fields() -> impl Iterator<Item = &'static str> {
    let source = include_str!("../../../../audit/event/fields.rs");
    let (fields, _) = source.split_once("\npub(super) fn ").unwrap();
    fields.lines().map(str::trim)
}

#[test]
fn every_event_of_the_library_is_known() {
    let events = events()
        .filter_map(|line| line.strip_suffix(" {"))
        .filter(|name| name.starts_with(char::is_uppercase));
    let mut known = 0;
    for name in events {
        assert!(EVENTS.iter().any(|(event, _)| *event == name), "{name}");
        known += 1;
    }
    assert_eq!(known, EVENTS.len());
}

#[test]
fn every_field_of_the_library_is_known() {
    let mut known = 0;
    let mut before = "";
    for line in shared_fields().chain(events()) {
        let name = line.strip_prefix("pub(crate) ").unwrap_or(line);
        let field = name
            .strip_suffix(',')
            .and_then(|name| name.split_once(": "));
        if let Some((name, _)) = field
            && !name.starts_with("//")
            && before != "#[serde(flatten)]"
            && ![
                "end",
                "checkpoint",
                "frontier",
                "root",
                "void",
                "voided",
                "voided_total",
            ]
            .contains(&name)
        {
            let of_one = OF_EVENTS.iter().any(|(_, field, _)| *field == name);
            assert!(of_one || super::field("", name) != UNKNOWN_FIELD, "{name}");
            known += 1;
        }
        before = line;
    }
    assert!(known > 80, "{known}");
}

#[test]
fn what_is_unknown_is_said_to_be() {
    assert!(event("Nothing").contains("does not know"));
    assert_eq!(field("Note", "nothing"), UNKNOWN_FIELD);
    assert_ne!(field("KeyChanged", "key"), field("TrailOpened", "key"));
}
