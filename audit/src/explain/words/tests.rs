//! The tables are sorted, as look-up requires. The crates that record the events test that every
//! event and field has an entry.

use super::*;

#[test]
fn the_lists_are_sorted_and_name_everything_once() {
    assert!(EVENTS.is_sorted_by(|a, b| a.0 < b.0));
    assert!(FIELDS.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn what_is_unknown_is_said_to_be() {
    assert!(event("Nothing").contains("does not know"));
    assert_eq!(field("Note", "nothing"), UNKNOWN_FIELD);
    assert_ne!(field("KeyChanged", "key"), field("TrailOpened", "key"));
}
