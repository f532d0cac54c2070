//! Compares the fields of a record with those that it must have: no one more, no one less.

use serde_json::Value;

use super::of_event;

const COMMON: &str = "seq time mono_us boot worker event severity outcome by";

/// The one record of this event, after its field names, severity and outcome were compared.
#[track_caller]
pub fn one(records: &[Value], event: &str, result: &str, fields: &[&str]) -> Value {
    let found = of_event(records, event);
    assert_eq!(found.len(), 1, "{event}: {found:?}");
    expect(&found[0], result, fields);
    found[0].clone()
}

#[track_caller]
pub fn expect(record: &Value, result: &str, fields: &[&str]) {
    let mut expected: Vec<&str> = COMMON.split(' ').collect();
    expected.extend(fields.iter().flat_map(|names| names.split_whitespace()));
    expected.sort_unstable();
    let mut names: Vec<&str> = record
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(names, expected, "{record}");
    let told = format!(
        "{} {}",
        record["severity"].as_str().unwrap(),
        record["outcome"].as_str().unwrap()
    );
    assert_eq!(told, result, "{record}");
    assert_eq!(record["worker"], "worker-1");
}
