//! No entry exceeds the limit, whatever its quoted texts contain.

use proptest::prelude::*;
use vram_trail::clock::Time;
use vram_trail::key::Custody;
use vram_trail::{Application, Entry as _, MAX_ENTRY_BYTES, Seq};

use super::*;
use crate::registry::Registry;

#[path = "../../audit/src/explain/words/table.rs"]
mod words;

/// Texts that take more bytes in JSON than in memory, and that must not be cut in their middle.
const PIECES: [&str; 9] = [
    "\0", "\u{1f}", "\"", "\\", "\n", "\u{7f}", "\u{2028}", "é", "🦀",
];

fn longest_name() -> String {
    "w".repeat(256)
}

fn subject() -> Subject {
    let shard = longest_name().parse().unwrap();
    Subject::new(shard, u64::MAX, "cuda:4294967295".into())
}

fn history() -> History {
    History {
        sealed_seq: Some(Seq::new(u64::MAX)),
        sealed_time: Some(Time::now()),
        last_verified_seq: Some(Seq::new(u64::MAX)),
        last_verified_time: Some(Time::now()),
    }
}

fn model() -> ModelRef {
    ModelRef::new(&longest_name(), u32::MAX - 1, u32::MAX).unwrap()
}

fn shard() -> ShardId {
    longest_name().parse().unwrap()
}

/// Returns one of each, with `said` in place of each text of a driver or a caller.
fn all(said: &str) -> [Event; 11] {
    let text = || Text::from(said);
    let digest = "ab".repeat(32);
    [
        Event::DeviceFailed {
            subject: subject(),
            operation: "verify_window",
            cause: text(),
        },
        Event::DeviceOpened {
            device: "cuda:4294967295".into(),
            identity: text(),
            proven: text(),
            unproven: text(),
        },
        Event::PolicyViolation {
            violation: Box::new(Violation {
                shard: Some(shard()),
                policy: text(),
                violation: text(),
                details: text(),
                action: text(),
            }),
        },
        Event::SealVerificationFailed {
            failure: Box::new(Failure {
                subject: subject(),
                reason: Reason::ProvenanceMismatch,
                operation: "verify_window",
                expected: Some(AnyDigest::Sha256(digest.parse().unwrap())),
                actual: Some(AnyDigest::Sha256(digest.parse().unwrap())),
                history: history(),
                damaged_windows: u64::MAX,
                damaged: vec![u64::MAX - 1..u64::MAX; 100_000],
                detail: Some(text()),
                injected: true,
            }),
        },
        Event::SealVerified {
            subject: subject(),
            operation: "verify_window",
            digest: digest.parse().unwrap(),
            first_window: u64::MAX,
            end_window: u64::MAX,
            bytes: u64::MAX,
        },
        Event::VerificationInconclusive {
            subject: subject(),
            operation: "verify_window",
            cause: text(),
        },
        Event::VerificationOverdue {
            subject: subject(),
            history: history(),
            max_age_ms: u64::MAX,
        },
        Event::VramAllocated {
            subject: subject(),
            model: model(),
            requested_bytes: u64::MAX,
            allocated_bytes: u64::MAX,
            available_bytes: Some(u64::MAX),
            used_bytes: u64::MAX,
            memory_locked: false,
            dumpable: true,
        },
        Event::VramAllocationFailed {
            shard: shard(),
            device: "cuda:4294967295".into(),
            requested_bytes: u64::MAX,
            available_bytes: Some(u64::MAX),
            reason: text(),
        },
        Event::VramDeallocated {
            subject: subject(),
            freed_bytes: u64::MAX,
            used_bytes: u64::MAX,
            wiped: false,
            freed: false,
            inherited: true,
        },
        Event::VramSealed {
            subject: subject(),
            sealed: Box::new(Sealing {
                model: model(),
                bytes: u64::MAX,
                digest: digest.parse().unwrap(),
                provenance: "unpinned_first_use",
                stream_sha256: Some(digest.parse().unwrap()),
                sealed_time: Time::now(),
                key_id: "ab".repeat(16).into(),
                token_access: Custody::OwnerAndGroup,
                epoch: "ab".repeat(16).into(),
                read_only: false,
            }),
        },
    ]
}

fn all_fit(said: &str) {
    for event in all(said) {
        let entry = Entry::from(event);
        let json = serde_json::to_vec(&entry).unwrap();
        let name = entry.name();
        assert!(json.len() <= MAX_ENTRY_BYTES, "{name}: {}", json.len());
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes, and safe code alone")]
fn the_longest_texts_of_each_kind_fit_into_an_entry() {
    for piece in PIECES {
        all_fit(&piece.repeat(70_000));
    }
}

fn closing() -> Closing {
    Closing {
        live_shards: u64::MAX,
        live: vec![
            LiveShard {
                subject: subject(),
                bytes: u64::MAX,
            };
            MAX_LISTED_SHARDS
        ],
        open_verifications: u64::MAX,
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps and locks memory")]
fn what_a_trail_is_opened_and_closed_with_fits_and_has_words() {
    let opening = Registry::new().opening();
    let bytes = serde_json::to_vec(&opening).unwrap().len();
    assert!(bytes <= vram_trail::MAX_OPENING_BYTES, "{bytes}");
    assert_words("TrailOpened", &opening);
    let bytes = serde_json::to_vec(&closing()).unwrap().len();
    assert!(bytes <= MAX_ENTRY_BYTES, "{bytes}");
    assert_words("TrailClosed", &closing());
}

/// The reviewer's command has words for each event and each of its fields.
#[test]
fn the_command_knows_every_event_and_field() {
    for event in all("x") {
        let name = event.name();
        assert!(
            words::EVENTS.iter().any(|(known, _)| *known == name),
            "{name}"
        );
        assert_words(name, &Entry::from(event));
    }
    // And it knows no other event.
    let own = all("x").map(|event| event.name());
    for (known, _) in words::EVENTS {
        assert!(
            own.contains(known) || vram_trail::OWN_EVENTS.contains(known),
            "{known}"
        );
    }
}

/// The command has words for each of these fields of the event.
fn assert_words(event: &str, fields: &impl Serialize) {
    let json = serde_json::to_value(fields).unwrap();
    for (field, _) in json.as_object().unwrap() {
        let own = words::OF_EVENTS.iter();
        let is_own = own
            .filter(|(events, _, _)| events.contains(&event))
            .any(|(_, known, _)| known == field);
        let is_known = words::FIELDS.iter().any(|(known, _)| known == field);
        assert!(is_own || is_known, "{event}: {field}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    #[cfg_attr(miri, ignore = "minutes, and safe code alone")]
    fn whatever_is_said_every_entry_fits(
        said in prop::collection::vec(prop_oneof![
            any::<char>().prop_map(String::from),
            prop::sample::select(&PIECES[..]).prop_map(String::from),
        ], 1..3000),
    ) {
        all_fit(&said.concat().repeat(8));
    }
}
