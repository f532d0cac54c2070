//! No line exceeds the limit, whatever the quoted texts contain.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::application::{Entry, NoFields, Plain};
use crate::builder::{Retention, TrailBuilder};
use crate::event::{
    Anchoring, Header, LossCause, Lost, Previous, Text, Violation, VoidedCheckpoint,
};
use crate::key::{Custody, TrailKey};
use crate::segment::MAX_LINE_BYTES;
use crate::{MAX_ENTRY_BYTES, MAX_OPENING_BYTES, Trail};

#[path = "../../../audit/src/explain/words/table.rs"]
mod words;

/// Texts that take more bytes in JSON than in memory, and that must not be cut in their middle.
const PIECES: [&str; 9] = [
    "\0", "\u{1f}", "\"", "\\", "\n", "\u{7f}", "\u{2028}", "é", "🦀",
];

fn longest_name() -> String {
    "w".repeat(256)
}

/// Returns a header behind a trail of 2^53 records, with as many voided checkpoints as are listed.
fn header(basis: &str) -> Box<Header> {
    let root = "A".repeat(44);
    let origin = format!("vram-residency/{}/0123456789abcdef", longest_name());
    let signature = "A".repeat(92);
    Box::new(Header {
        format: u64::MAX,
        numbers_below: u64::MAX,
        segment: u64::MAX,
        first_leaf: u64::MAX,
        key: format!("{origin}+01234567+{root}").into(),
        retention: Retention::years(u16::MAX, basis),
        previous: Some(Previous {
            segment: u64::MAX,
            end: u64::MAX,
            void: Some(u64::MAX),
            checkpoint: format!("{origin}\n{}\n{root}\n\n— {origin} {signature}\n", u64::MAX),
            frontier: vec![root.clone(); 64],
            voided: vec![
                VoidedCheckpoint {
                    size: u64::MAX,
                    root,
                };
                crate::position::MAX_VOIDED
            ],
            voided_total: Some(u64::MAX),
        }),
        origin: origin.into(),
    })
}

/// Returns one of each of the trail's own events. `said` stands for each text of an anchor, a
/// signer or a caller. `accepted` stands for each text that is refused if it is too long.
fn all(said: &str, accepted: &str) -> Vec<Event<Plain>> {
    let name: Arc<str> = "\"".repeat(256).into();
    let text = || Text::from(said);
    let public = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    let key = TrailKey::from_signer(public.to_bytes(), |_| Ok([0; 64])).unwrap();
    let mut builder = TrailBuilder::new(
        Arc::new(Plain),
        longest_name().parse().unwrap(),
        "trail",
        key,
    )
    .retention(Retention::years(1, accepted));
    for place in 0..16 {
        let named: String = format!("{place:02}") + &"\"".repeat(254);
        builder = builder
            .new_origin_beside(named.as_str())
            .dangerous_ignore_unverifiable_anchor(named.as_str());
    }
    builder.settings.check().unwrap();
    vec![
        Event::Anchor(Anchoring::Contradicted {
            anchor: Arc::clone(&name),
            contradiction: "unverifiable",
            size: u64::MAX,
            root: "A".repeat(44).into(),
        }),
        Event::Anchor(Anchoring::Failed {
            anchor: Arc::clone(&name),
            cause: text(),
            size: u64::MAX,
        }),
        Event::Anchor(Anchoring::PartlyCompared {
            anchor: Arc::clone(&name),
            comparison: "unverifiable_ignored",
        }),
        Event::Anchor(Anchoring::Recovered {
            anchor: Arc::clone(&name),
            size: u64::MAX,
        }),
        Event::AuditDegraded {
            degraded: true,
            window_s: u64::MAX,
            attempts: u64::MAX,
            failures: u64::MAX,
        },
        Event::ClockStepped { step_ns: i64::MIN },
        Event::KeyChanged {
            previous_key: Arc::clone(&header("b").key),
            key: Arc::clone(&header("b").key),
        },
        Event::Note { text: text() },
        Event::NumbersReserved {
            numbers_below: u64::MAX,
        },
        Event::PolicyViolation {
            violation: Box::new(Violation {
                policy: text(),
                violation: text(),
                details: text(),
                action: text(),
            }),
        },
        Event::RecordsLost {
            lost: Lost {
                first: Seq(u64::MAX),
                last: Seq(u64::MAX),
                count: u64::MAX,
                unnumbered: u64::MAX,
                cause: LossCause::QueueFull,
                first_time: Time::now(),
                last_time: Time::now(),
            },
        },
        Event::SegmentOpened {
            header: header(accepted),
        },
        Event::SegmentPoisoned {
            segment: u64::MAX,
            operation: "remove an unfinished segment",
            cause: text(),
        },
        Event::TailRecovered {
            segment: u64::MAX,
            void_from: u64::MAX,
            void_bytes: u64::MAX,
            void_records: u64::MAX,
            highest_seq: Seq(u64::MAX),
        },
        Event::TrailClosed {
            closing: NoFields {},
        },
        Event::TrailOpened {
            opening: Box::new(NoFields {}),
            header: header(accepted),
            configuration: Box::new(builder.settings.configuration(
                Custody::OwnerAndGroup,
                None,
                vec![name; 17],
            )),
        },
    ]
}

fn line<A: Application>(event: Event<A>) -> Vec<u8> {
    let record = Record {
        seq: Seq(u64::MAX),
        time: Time::now(),
        mono_us: u64::MAX,
        event,
    };
    let worker = longest_name().parse().unwrap();
    let mut line = Vec::new();
    record
        .write_to("unknown-0123456789abcdef", &worker, u64::MAX, &mut line)
        .unwrap();
    line
}

fn all_fit(said: &str, accepted: &str) {
    for event in all(said, accepted) {
        let name = event.name();
        let room = match event {
            Event::TrailOpened { .. } => MAX_LINE_BYTES - MAX_OPENING_BYTES,
            _ => MAX_LINE_BYTES,
        };
        let line = line(event);
        assert!(line.len() <= room, "{name}: {}", line.len());
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["event"], name);
    }
}

/// The reviewer's command has words for each event and each of its fields.
#[test]
fn the_command_knows_every_event_and_field() {
    let mut names = Vec::new();
    for event in all("x", "x") {
        let name = event.name();
        names.push(name);
        assert!(
            words::EVENTS.iter().any(|(known, _)| *known == name),
            "{name}"
        );
        let line = line(event);
        let read: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&line).unwrap();
        for field in read.keys() {
            let own = words::OF_EVENTS.iter();
            let is_own = own
                .filter(|(events, _, _)| events.contains(&name))
                .any(|(_, known, _)| known == field);
            let is_known = words::FIELDS.iter().any(|(known, _)| known == field);
            assert!(is_own || is_known, "{name}: {field}");
        }
    }
    names.sort_unstable();
    assert_eq!(names, crate::OWN_EVENTS);
}

/// An entry of an application that exceeds the promised length, or cannot be written at all.
#[derive(Clone, Debug, serde::Serialize)]
struct Loud {
    #[serde(serialize_with = "fails_if_empty")]
    text: String,
}

fn fails_if_empty<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        "" => Err(serde::ser::Error::custom("nothing")),
        text => serializer.serialize_str(text),
    }
}

impl Entry for Loud {
    fn name(&self) -> &'static str {
        "Loud"
    }

    fn severity(&self) -> Severity {
        Severity::Critical
    }
}

#[derive(Debug)]
struct Shouts;

impl Application for Shouts {
    type Entry = Loud;
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

#[test]
fn an_entry_that_cannot_be_written_is_on_record_without_its_fields() {
    for (text, is_written) in [
        ("x".repeat(MAX_ENTRY_BYTES - "{\"text\":\"\"}".len()), true),
        ("x".repeat(MAX_LINE_BYTES), false),
        (String::new(), false),
    ] {
        let line = line(Event::<Shouts>::Entry(Loud { text: text.clone() }));
        assert!(line.len() <= MAX_LINE_BYTES);
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["event"], "Loud");
        assert_eq!(read["severity"], "CRITICAL");
        assert_eq!(read["seq"], u64::MAX);
        assert_eq!(read["text"] == *text, is_written);
        assert_eq!(read["unwritable"].is_string(), !is_written);
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes, and safe code alone")]
fn the_longest_texts_of_each_kind_fit_into_a_line() {
    for piece in PIECES {
        let accepted = piece.repeat(crate::MAX_TEXT_BYTES / piece.len());
        all_fit(&piece.repeat(70_000), &accepted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    #[cfg_attr(miri, ignore = "minutes, and safe code alone")]
    fn whatever_is_said_every_line_fits(
        said in prop::collection::vec(prop_oneof![
            any::<char>().prop_map(String::from),
            prop::sample::select(&PIECES[..]).prop_map(String::from),
        ], 1..3000),
    ) {
        all_fit(&said.concat().repeat(8), "basis");
    }
}
