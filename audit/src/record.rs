//! A record with its fields in the order of its line, and points in time. What the fields mean is
//! not known here.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The fields of a JSON object, in their order.
pub(crate) struct Record {
    pub(crate) fields: Vec<(String, Value)>,
}

impl Record {
    /// Reads a line that is a record. A record of format 2 can always be read. By the rules of
    /// format 1 a value may be half a character, or a number outside every range.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    fn field(&self, name: &str) -> Option<&Value> {
        let mut fields = self.fields.iter();
        fields.find_map(|(field, value)| (field == name).then_some(value))
    }

    /// Returns the field's text, or an empty text if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.field(name).and_then(Value::as_str).unwrap_or("")
    }

    /// Returns the field's value if it is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name).and_then(Value::as_u64)
    }

    /// Returns the texts of all fields of this name, or one empty text if there is none.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(move |(field, _)| field == name);
        let mut texts = fields.filter_map(|(_, value)| value.as_str());
        let first = texts.next().unwrap_or("");
        std::iter::once(first).chain(texts)
    }

    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.text("time").parse().ok()
    }

    /// Returns the time as it is written, if there is a valid one. All times have one form, in
    /// which text order is time order. A few are outside the range of [`Self::time`].
    pub(crate) fn written_time(&self) -> Option<&str> {
        let text = self.text("time");
        let is_real = text.strip_suffix('Z')?.parse::<DateTime>().is_ok();
        is_real.then_some(text)
    }

    /// Returns the period and its basis, if this is a header that states how long to keep its
    /// segment.
    pub(crate) fn retention(&self) -> Option<(&str, &str)> {
        let statement = self.field("retention")?;
        let text = |name| statement.get(name).and_then(Value::as_str);
        Some((text("period")?, text("basis").unwrap_or("no basis stated")))
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Record { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads a time (RFC 3339), or a date, which means its first moment in UTC.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let wrong = |error: jiff::Error| {
        format!("say a date (2026-01-31, in UTC) or a time (2026-01-31T08:00:00Z): {error}")
    };
    if text.len() == "2026-01-31".len() {
        let date: Date = text.parse().map_err(wrong)?;
        let midnight = date.to_datetime(Time::midnight());
        let moment = TimeZone::UTC.to_timestamp(midnight);
        return moment.map_err(wrong);
    }
    text.parse().map_err(wrong)
}
