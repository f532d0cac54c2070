//! The lines of a segment: classified, with records read as far as needed.
//!
//! Any writer of the disk chooses these bytes, so no length or number is trusted here. This module
//! knows the content of one line. It does not know which lines came before, or where it came from.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::super::checkpoint::{Checkpoint, VerifierKey, decode_base64};
use super::super::event::{FORMAT, Previous};
use super::super::merkle::{Node, leaf_hash};
use super::super::position::MAX_VOIDED;
use super::{form, plain};

/// The most bytes a line may have, its newline not counted.
pub(crate) const MAX_LINE_BYTES: usize = 65_535;

/// The start of every checkpoint line, and of no record.
pub(crate) const CHECKPOINT_START: &[u8] = b"{\"checkpoint\":";

/// The form of every time in a trail, with digits for the zeros.
const TIME_FORM: &[u8] = b"0000-00-00T00:00:00.000000000Z";

/// The highest number of a record. Beyond it, `jq` and JavaScript would round.
pub(crate) const MAX_SEQ: u64 = 1 << 53;

/// The fields that every record has, in this order.
pub(super) const COMMON: [&str; 8] = [
    "seq", "time", "mono_us", "boot", "worker", "event", "severity", "outcome",
];

/// The content between two newlines. A record comes with its bytes, or with their leaf.
#[derive(Debug)]
pub(crate) enum Line<L> {
    Checkpoint(Result<Checkpoint, &'static str>),
    Record(Record, L),
    /// The file ends before the newline.
    Torn,
    Unreadable(&'static str),
}

/// The rules by which a segment's lines are read, from the format that its header names.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// `None` before the first line.
    format: Option<u64>,
}

impl Rules {
    /// Classifies the next line by the rules of this segment.
    pub(super) fn apply<L>(&mut self, line: Line<L>) -> Line<L> {
        let Line::Record(record, _) = &line else {
            self.format.get_or_insert(first_format());
            return line;
        };
        let format = *self.format.get_or_insert_with(|| match &record.fact {
            Fact::Header(header) => header.format,
            _ => first_format(),
        });
        if format == FORMAT && !record.in_one_form {
            return Line::Unreadable("a line is no record: it is not in the form of format 2");
        }
        line
    }
}

/// The parts of a record that the reader needs.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) time: Stamp,
    pub(crate) fact: Fact,
    /// The line by itself keeps the rules of format 2. The segment's header states which format is
    /// binding.
    pub(super) in_one_form: bool,
    /// The worker, unless it is the same as in the previous record of the same chunk.
    pub(super) worker: Option<Box<str>>,
}

/// A record's time in the one form of all records, so that text order is time order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Stamp([u8; TIME_FORM.len()]);

impl Stamp {
    /// Parses a time. Returns `None` if the text has another form.
    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; TIME_FORM.len()] = text.as_bytes().try_into().ok()?;
        is_time(text).then_some(Self(bytes))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// A record's statement about the trail itself.
#[derive(Debug)]
pub(crate) enum Fact {
    Closed(Closed),
    Header(Box<Header>),
    /// A failed verification.
    Incident,
    KeyChanged(KeyChanged),
    Lost(Lost),
    Other,
    Recovered(Recovered),
    Reserved(Reserved),
}

/// The statements of `TrailOpened` and `SegmentOpened` about their segment.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) event: Opening,
    /// The format whose rules this run follows. Version 0.1.0 did not state it, which means 1.
    #[serde(default = "first_format")]
    pub(crate) format: u64,
    /// `None` in format 1, which did not bound its numbers.
    pub(crate) numbers_below: Option<u64>,
    pub(crate) segment: u64,
    pub(crate) first_leaf: u64,
    pub(crate) origin: String,
    /// For convenience only: a verifier trusts only its given key.
    pub(crate) key: String,
    #[serde(default, deserialize_with = "object_or_null")]
    pub(crate) previous: Option<Previous>,
}

impl Header {
    /// Returns the bound of numbers that it states: a rule of format 2.
    pub(crate) fn bound(&self) -> Option<u64> {
        self.numbers_below.filter(|_| self.format > 1)
    }

    /// Returns whether the origin names this worker: `vram-residency/<worker>/<16 hexadecimal
    /// digits>`.
    pub(super) fn is_of(&self, worker: &str) -> bool {
        let rest = self.origin.strip_prefix("vram-residency/");
        let digits = rest
            .and_then(|rest| rest.strip_prefix(worker))
            .and_then(|rest| rest.strip_prefix('/'));
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(is_digit))
    }
}

fn first_format() -> u64 {
    1
}

impl Header {
    /// Returns the checkpoints that it declares void, by size and root. `None` if one of them is
    /// invalid.
    pub(crate) fn voided(&self) -> Option<Vec<(u64, Node)>> {
        let Some(previous) = self.previous.as_ref().filter(|_| self.format > 1) else {
            return Some(Vec::new());
        };
        let listed = previous.voided.len();
        let is_cut = previous
            .voided_total
            .is_none_or(|total| total > listed as u64);
        let voided = previous.voided.iter().map(|voided| {
            let root = decode_base64(&voided.root)?.try_into().ok()?;
            (voided.size > self.first_leaf).then_some((voided.size, root))
        });
        let voided = voided.collect::<Option<Vec<_>>>();
        voided.filter(|_| listed <= MAX_VOIDED && is_cut)
    }
}

/// Works as derived, but refuses an array of the fields' values, which no writer writes.
fn object_or_null<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Previous>, D::Error> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Option<Previous>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Previous::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    input.deserialize_any(Object)
}

/// The place that a `TrailClosed` states for itself. Version 0.1.0 did not state it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Closed {
    pub(crate) offset: Option<u64>,
}

/// The reason why a segment begins.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(crate) enum Opening {
    /// The same process continued in a new segment.
    SegmentOpened,
    /// A process has opened the trail.
    TrailOpened,
}

/// The statement of a `KeyChanged`: the key with which the trail continues.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KeyChanged {
    pub(crate) key: String,
    /// The key that signs this record, if it is stated. Format 1 did not read it.
    #[serde(skip)]
    pub(crate) previous_key: Option<String>,
}

impl KeyChanged {
    fn parse(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Previous {
            previous_key: String,
        }
        let previous = serde_json::from_str::<Previous>(line).ok();
        Some(Self {
            previous_key: previous.map(|previous| previous.previous_key),
            ..serde_json::from_str(line).ok()?
        })
    }
}

/// The numbers in a `RecordsLost`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Lost {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
    /// The number of further losses without a number.
    #[serde(default)]
    pub(crate) unnumbered: u64,
}

/// The statement of a `NumbersReserved`: the bound for the numbers of later records.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) numbers_below: u64,
}

/// The statement of a `TailRecovered` about the segment that a killed process left.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Recovered {
    pub(crate) segment: u64,
    pub(crate) void_from: u64,
    pub(crate) void_bytes: u64,
    pub(crate) highest_seq: u64,
}

impl<'a> Line<&'a [u8]> {
    const TOO_LONG: Self = Self::Unreadable("a line is longer than 65 535 bytes");

    /// Parses the bytes before a newline. `worker` is the worker of the previous record.
    pub(super) fn parse(line: &'a [u8], worker: &mut Option<Box<str>>) -> Self {
        if line.len() > MAX_LINE_BYTES {
            return Self::TOO_LONG;
        }
        if line.starts_with(CHECKPOINT_START) {
            return Self::Checkpoint(parse_own_checkpoint(line));
        }
        match parse_record(line, worker) {
            Some(record) => Self::Record(record, line),
            None => Self::Unreadable("a line is neither a record nor a checkpoint"),
        }
    }

    /// Parses the bytes behind the last newline of a file.
    pub(super) fn parse_unended(line: &'a [u8]) -> Self {
        if line.len() > MAX_LINE_BYTES {
            Self::TOO_LONG
        } else {
            Self::Torn
        }
    }

    /// Returns the line with the leaf for its bytes, and with its signature verified.
    pub(super) fn checked(self, keys: &[VerifierKey]) -> Line<Node> {
        match self {
            Self::Checkpoint(mut checkpoint) => {
                if let Ok(checkpoint) = &mut checkpoint {
                    checkpoint.find_signers(keys);
                }
                Line::Checkpoint(checkpoint)
            }
            Self::Record(record, line) => Line::Record(record, leaf_hash(line)),
            Self::Torn => Line::Torn,
            Self::Unreadable(words) => Line::Unreadable(words),
        }
    }
}

/// Parses the checkpoint in a line of a segment, where only the trail's own signature may stand.
fn parse_own_checkpoint(line: &[u8]) -> Result<Checkpoint, &'static str> {
    let checkpoint = parse_checkpoint(line)?;
    if checkpoint.has_one_signature() {
        Ok(checkpoint)
    } else {
        Err("a checkpoint has not exactly one signature")
    }
}

/// Parses a checkpoint line. It has one form, so that no byte of it can change unnoticed.
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
    Ok(checkpoint)
}

fn parse_record(line: &[u8], worker: &mut Option<Box<str>>) -> Option<Record> {
    let line = str::from_utf8(line).ok()?;
    let common = match plain::parse(line) {
        Some(common) => common,
        None => Common {
            in_one_form: form::is_one(line),
            ..serde_json::from_str(line).ok()?
        },
    };
    let fact = match common.event {
        "KeyChanged" => Fact::KeyChanged(KeyChanged::parse(line)?),
        "NumbersReserved" => Fact::Reserved(serde_json::from_str(line).ok()?),
        "RecordsLost" => Fact::Lost(serde_json::from_str(line).ok()?),
        "SegmentOpened" | "TrailOpened" => Fact::Header(serde_json::from_str(line).ok()?),
        "TailRecovered" => Fact::Recovered(serde_json::from_str(line).ok()?),
        "SealVerificationFailed" => Fact::Incident,
        "TrailClosed" => Fact::Closed(serde_json::from_str(line).ok()?),
        _ => Fact::Other,
    };
    let is_another = worker.as_deref() != Some(common.worker);
    if is_another {
        *worker = Some(common.worker.into());
    }
    Some(Record {
        seq: common.seq,
        time: common.time,
        fact,
        in_one_form: common.in_one_form && form::is_real(&common.time.0),
        worker: is_another.then(|| common.worker.into()),
    })
}

/// The fields that every record has, in their order and without duplicates.
pub(super) struct Common<'a> {
    pub(super) seq: u64,
    time: Stamp,
    worker: &'a str,
    pub(super) event: &'a str,
    /// The line is known to be in the canonical form of a record of format 2.
    pub(super) in_one_form: bool,
}

impl<'a> Common<'a> {
    /// Returns `None` if a value does not have its form.
    pub(super) fn new(
        seq: u64,
        time: &'a str,
        worker: &'a str,
        event: &'a str,
        severity: &str,
        outcome: &str,
    ) -> Option<Self> {
        let time = Stamp::parse(time)?;
        let fits = seq <= MAX_SEQ
            && matches!(severity, "INFO" | "WARN" | "CRITICAL")
            && matches!(outcome, "success" | "failure");
        fits.then_some(Self {
            seq,
            time,
            worker,
            event,
            in_one_form: false,
        })
    }
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
        let seq = value(&mut map, "seq")?;
        let time = value(&mut map, "time")?;
        let _mono_us: u64 = value(&mut map, "mono_us")?;
        let _boot: &str = value(&mut map, "boot")?;
        let worker = value(&mut map, "worker")?;
        let event = value(&mut map, "event")?;
        let severity: &str = value(&mut map, "severity")?;
        let outcome: &str = value(&mut map, "outcome")?;
        while let Some(stands_twice) = map.next_key_seed(NamedOneOf(&COMMON))? {
            if stands_twice {
                return Err(A::Error::custom("a common field stands twice"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Common::new(seq, time, worker, event, severity, outcome)
            .ok_or_else(|| A::Error::custom("a common field has a value of another form"))
    }
}

fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    name: &str,
) -> Result<T, A::Error> {
    // A name with escapes cannot be borrowed, and is refused like a value with escapes.
    match map.next_key::<&str>()? {
        Some(found) if found == name => map.next_value(),
        _ => Err(A::Error::custom("the common fields are not in their order")),
    }
}

/// Matches a field with one of these names.
struct NamedOneOf<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for NamedOneOf<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NamedOneOf<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0.contains(&name))
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
mod tests;
