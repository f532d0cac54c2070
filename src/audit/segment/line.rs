//! Lines of a segment: cut out of the stream, told apart, and records read as far as needed.
//!
//! Whoever can write to the disk chooses these bytes, so nothing here trusts a length or a number.
//! This module knows what one line says; it does not know what stood before it.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::super::checkpoint::Checkpoint;
use super::super::event::Previous;

/// The most bytes a line may have, its newline not counted.
pub(crate) const MAX_LINE_BYTES: usize = 65_535;

/// What every checkpoint line starts with, and no record.
const CHECKPOINT_START: &[u8] = b"{\"checkpoint\":";

/// Every time in a trail has this form, with digits for the zeros.
const TIME_FORM: &[u8] = b"0000-00-00T00:00:00.000000000Z";

/// The fields that every record has, in this order.
const COMMON: [&str; 8] = [
    "seq", "time", "mono_us", "boot", "worker", "event", "severity", "outcome",
];

/// A segment's bytes, one line after the other; at most one line is in memory.
pub(super) struct Lines<R> {
    source: BufReader<R>,
    line: Vec<u8>,
}

/// What stands between two newlines.
pub(crate) enum Line<'a> {
    Checkpoint(Result<Checkpoint, &'static str>),
    Record(Record<'a>, &'a [u8]),
    /// The file ends before the newline.
    Torn,
    Unreadable(&'static str),
}

/// What the reader needs of a record.
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    pub(crate) event: &'a str,
    pub(crate) fact: Fact,
}

/// What a record says about the trail itself.
pub(crate) enum Fact {
    Header(Box<Header>),
    KeyChanged(KeyChanged),
    Lost(Lost),
    Other,
    Recovered(Recovered),
}

/// What `TrailOpened` and `SegmentOpened` say about their segment.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) segment: u64,
    pub(crate) first_leaf: u64,
    pub(crate) origin: String,
    /// For reading comfort: a verifier trusts only the key that it was given.
    pub(crate) key: String,
    pub(crate) previous: Option<Previous>,
}

/// What a `KeyChanged` says: with which key the trail goes on.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KeyChanged {
    pub(crate) key: String,
}

/// The numbers in a `RecordsLost`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Lost {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
}

/// What a `TailRecovered` says about the segment that a killed process left.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Recovered {
    pub(crate) segment: u64,
    pub(crate) void_from: u64,
    pub(crate) void_bytes: u64,
    pub(crate) highest_seq: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(MAX_LINE_BYTES.saturating_add(1), source),
            line: Vec::new(),
        }
    }

    /// The next line and its length with its newline, or nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(Line<'_>, u64)>> {
        let limit = u64::try_from(MAX_LINE_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        self.line.clear();
        let source = &mut self.source;
        let kept = source.take(limit).read_until(b'\n', &mut self.line)?;
        if kept == 0 {
            return Ok(None);
        }
        let whole = self.line.pop_if(|last| *last == b'\n').is_some();
        let rest = if whole || kept <= MAX_LINE_BYTES {
            0
        } else {
            self.source.skip_until(b'\n')?
        };
        let length = u64::try_from(kept.saturating_add(rest)).unwrap_or(u64::MAX);
        let line = if whole {
            parse(&self.line)
        } else if kept <= MAX_LINE_BYTES {
            Line::Torn
        } else {
            Line::Unreadable("a line is longer than 65 535 bytes")
        };
        Ok(Some((line, length)))
    }
}

fn parse(line: &[u8]) -> Line<'_> {
    if line.starts_with(CHECKPOINT_START) {
        return Line::Checkpoint(parse_checkpoint(line));
    }
    match parse_record(line) {
        Some(record) => Line::Record(record, line),
        None => Line::Unreadable("a line is neither a record nor a checkpoint"),
    }
}

/// A checkpoint line has one form, so that no byte of it can change unseen.
pub(crate) fn parse_checkpoint(line: &[u8]) -> Result<Checkpoint, &'static str> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note<'a> {
        #[serde(borrow)]
        checkpoint: Cow<'a, str>,
    }
    let note: Note<'_> =
        serde_json::from_slice(line).map_err(|_| "a checkpoint line is not valid JSON")?;
    let checkpoint: Checkpoint = note
        .checkpoint
        .parse()
        .map_err(|_| "a checkpoint line holds no checkpoint")?;
    let written = checkpoint.to_line().unwrap_or_default();
    if written.strip_suffix('\n').map(str::as_bytes) != Some(line) {
        return Err("a checkpoint line is not written in its one form");
    }
    if checkpoint.signature_count() != 1 {
        return Err("a checkpoint has not exactly one signature");
    }
    Ok(checkpoint)
}

fn parse_record(line: &[u8]) -> Option<Record<'_>> {
    let common: Common<'_> = serde_json::from_slice(line).ok()?;
    let fact = match common.event {
        "KeyChanged" => Fact::KeyChanged(serde_json::from_slice(line).ok()?),
        "RecordsLost" => Fact::Lost(serde_json::from_slice(line).ok()?),
        "SegmentOpened" | "TrailOpened" => Fact::Header(serde_json::from_slice(line).ok()?),
        "TailRecovered" => Fact::Recovered(serde_json::from_slice(line).ok()?),
        _ => Fact::Other,
    };
    Some(Record {
        seq: common.seq,
        event: common.event,
        fact,
    })
}

/// The fields that every record has, found in their order and only once.
struct Common<'a> {
    seq: u64,
    event: &'a str,
}

impl<'de> Deserialize<'de> for Common<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CommonVisitor)
    }
}

struct CommonVisitor;

impl<'de> Visitor<'de> for CommonVisitor {
    type Value = Common<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record with its common fields in order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Common<'de>, A::Error> {
        let seq = value(&mut map, 0)?;
        let time: &str = value(&mut map, 1)?;
        let _mono_us: u64 = value(&mut map, 2)?;
        let _boot: &str = value(&mut map, 3)?;
        let _worker: &str = value(&mut map, 4)?;
        let event = value(&mut map, 5)?;
        let severity: &str = value(&mut map, 6)?;
        let outcome: &str = value(&mut map, 7)?;
        if !is_time(time)
            || !matches!(severity, "INFO" | "WARN" | "CRITICAL")
            || !matches!(outcome, "success" | "failure")
        {
            return Err(A::Error::custom(
                "a common field has a value of another form",
            ));
        }
        while let Some(Name(name)) = map.next_key()? {
            if name.is_some() {
                return Err(A::Error::custom("a common field stands twice"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(Common { seq, event })
    }
}

fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    position: usize,
) -> Result<T, A::Error> {
    match map.next_key()? {
        Some(Name(Some(found))) if found == position => map.next_value(),
        _ => Err(A::Error::custom("the common fields are not in their order")),
    }
}

/// A field's name: its position among the common ones, or none.
struct Name(Option<usize>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(COMMON.iter().position(|common| *common == name)))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

fn is_time(text: &str) -> bool {
    text.len() == TIME_FORM.len()
        && text.bytes().zip(TIME_FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"seq":3,"time":"2026-01-02T03:04:05.000000006Z","mono_us":1,"boot":"b","worker":"w","event":"Note","severity":"INFO","outcome":"success","text":"a \" b"}"#;

    #[test]
    fn a_record_has_its_common_fields_once_and_in_order() {
        assert_eq!(parse_record(GOOD.as_bytes()).unwrap().seq, 3);
        for wrong in [
            GOOD.replace("\"seq\":3,", ""),
            GOOD.replace("\"seq\":3", "\"seq\":-3"),
            GOOD.replace("\"seq\":3", "\"seq\":3.0"),
            GOOD.replace(
                "\"boot\":\"b\",\"worker\":\"w\"",
                "\"worker\":\"w\",\"boot\":\"b\"",
            ),
            GOOD.replace("\"text\"", "\"seq\""),
            GOOD.replace("\"text\"", "\"s\\u0065q\""),
            GOOD.replace("INFO", "LOUD"),
            GOOD.replace("success", "unknown"),
            GOOD.replace("06Z", "6Z"),
            format!("{GOOD}x"),
            format!("[{GOOD}]"),
        ] {
            assert!(parse_record(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_long_line_is_counted_and_not_kept() {
        let mut bytes = vec![b'x'; 1_000_000];
        bytes.extend_from_slice(b"\nab\ncd");
        let mut lines = Lines::new(bytes.as_slice());
        assert!(matches!(
            lines.next().unwrap(),
            Some((Line::Unreadable(_), 1_000_001))
        ));
        assert!(lines.line.capacity() <= 2 * MAX_LINE_BYTES + 2);
        assert!(matches!(
            lines.next().unwrap(),
            Some((Line::Unreadable(_), 3))
        ));
        assert!(matches!(lines.next().unwrap(), Some((Line::Torn, 2))));
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn a_line_may_have_65_535_bytes_and_no_more() {
        for (length, fits) in [(MAX_LINE_BYTES, true), (MAX_LINE_BYTES + 1, false)] {
            let text = GOOD.replace("a \\\" b", &"x".repeat(length - GOOD.len() + 6));
            assert_eq!(text.len(), length);
            let text = text + "\n";
            let mut lines = Lines::new(text.as_bytes());
            let (line, read) = lines.next().unwrap().unwrap();
            assert_eq!(matches!(line, Line::Record(..)), fits);
            assert_eq!(read, length as u64 + 1);
        }
    }
}
