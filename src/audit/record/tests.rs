//! No line is longer than a line may be, whatever those say whom a record quotes.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::audit::builder::{AuditTrailBuilder, Retention};
use crate::audit::event::{
    AnyDigest, Failure, Header, History, LiveShard, LossCause, Lost, MAX_LISTED_SHARDS, Previous,
    Reason, Sealing, Subject, Text, Violation, VoidedCheckpoint,
};
use crate::audit::segment::MAX_LINE_BYTES;
use crate::id::{ModelRef, ShardId};
use crate::key::{Custody, TrailKey};

/// What takes more bytes in JSON than in memory, and what must not be cut in its middle.
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
        sealed_seq: Some(Seq(u64::MAX)),
        sealed_time: Some(Time::now()),
        last_verified_seq: Some(Seq(u64::MAX)),
        last_verified_time: Some(Time::now()),
    }
}

fn model() -> ModelRef {
    ModelRef::new(&longest_name(), u32::MAX - 1, u32::MAX).unwrap()
}

fn shard() -> ShardId {
    longest_name().parse().unwrap()
}

/// A header behind a trail of 2^53 records, with as many voided checkpoints as are listed.
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
                crate::audit::position::MAX_VOIDED
            ],
            voided_total: Some(u64::MAX),
        }),
        origin: origin.into(),
    })
}

/// The event after `event`, with `said` wherever somebody else has a word, and `accepted` where what
/// somebody else says was refused if it was too long.
fn after(event: Option<&Event>, said: &str, accepted: &str) -> Option<Event> {
    let name: Arc<str> = "\"".repeat(256).into();
    let text = || Text::from(said);
    let digest = "ab".repeat(32);
    let event = match event {
        None => Event::AnchorContradicted {
            anchor: name,
            contradiction: "unverifiable",
            size: u64::MAX,
            root: "A".repeat(44).into(),
        },
        Some(Event::AnchorContradicted { .. }) => Event::AnchorFailed {
            anchor: name,
            cause: text(),
            size: u64::MAX,
        },
        Some(Event::AnchorFailed { .. }) => Event::AnchorPartlyCompared {
            anchor: name,
            comparison: "unverifiable_ignored",
        },
        Some(Event::AnchorPartlyCompared { .. }) => Event::AnchorRecovered {
            anchor: name,
            size: u64::MAX,
        },
        Some(Event::AnchorRecovered { .. }) => Event::AuditDegraded {
            degraded: true,
            window_s: u64::MAX,
            attempts: u64::MAX,
            failures: u64::MAX,
        },
        Some(Event::AuditDegraded { .. }) => Event::ClockStepped { step_ns: i64::MIN },
        Some(Event::ClockStepped { .. }) => Event::DeviceFailed {
            subject: subject(),
            operation: "verify_window",
            cause: text(),
        },
        Some(Event::DeviceFailed { .. }) => Event::DeviceOpened {
            device: "cuda:4294967295".into(),
            identity: text(),
            proven: text(),
            unproven: text(),
        },
        Some(Event::DeviceOpened { .. }) => Event::KeyChanged {
            previous_key: Arc::clone(&header("b").key),
            key: Arc::clone(&header("b").key),
        },
        Some(Event::KeyChanged { .. }) => Event::Note { text: text() },
        Some(Event::Note { .. }) => Event::NumbersReserved {
            numbers_below: u64::MAX,
        },
        Some(Event::NumbersReserved { .. }) => Event::PolicyViolation {
            violation: Box::new(Violation {
                by: By::Caller,
                shard: Some(shard()),
                policy: text(),
                violation: text(),
                details: text(),
                action: text(),
            }),
        },
        Some(Event::PolicyViolation { .. }) => Event::RecordsLost {
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
        Some(Event::RecordsLost { .. }) => Event::SealVerificationFailed {
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
        Some(Event::SealVerificationFailed { .. }) => Event::SealVerified {
            subject: subject(),
            operation: "verify_window",
            digest: digest.parse().unwrap(),
            first_window: u64::MAX,
            end_window: u64::MAX,
            bytes: u64::MAX,
        },
        Some(Event::SealVerified { .. }) => Event::SegmentOpened {
            header: header(accepted),
        },
        Some(Event::SegmentOpened { .. }) => Event::SegmentPoisoned {
            segment: u64::MAX,
            operation: "remove an unfinished segment",
            cause: text(),
        },
        Some(Event::SegmentPoisoned { .. }) => Event::TailRecovered {
            segment: u64::MAX,
            void_from: u64::MAX,
            void_bytes: u64::MAX,
            void_records: u64::MAX,
            highest_seq: Seq(u64::MAX),
        },
        Some(Event::TailRecovered { .. }) => Event::TrailClosed {
            live_shards: u64::MAX,
            live: vec![
                LiveShard {
                    subject: subject(),
                    bytes: u64::MAX,
                };
                MAX_LISTED_SHARDS
            ],
            open_verifications: u64::MAX,
        },
        Some(Event::TrailClosed { .. }) => {
            let public = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
            let key = TrailKey::from_signer(public.to_bytes(), |_| Ok([0; 64])).unwrap();
            let mut builder =
                AuditTrailBuilder::new(longest_name().parse().unwrap(), "trail".into(), key)
                    .retention(Retention::years(1, accepted));
            for place in 0..16 {
                let named: String = format!("{place:02}") + &"\"".repeat(254);
                builder = builder
                    .new_origin_beside(named.as_str())
                    .dangerous_ignore_unverifiable_anchor(named.as_str());
            }
            builder.settings.check().unwrap();
            Event::TrailOpened {
                header: header(accepted),
                configuration: Box::new(builder.settings.configuration(
                    Custody::OwnerAndGroup,
                    None,
                    vec![name; 17],
                )),
            }
        }
        Some(Event::TrailOpened { .. }) => Event::VerificationInconclusive {
            subject: subject(),
            operation: "verify_window",
            cause: text(),
        },
        Some(Event::VerificationInconclusive { .. }) => Event::VerificationOverdue {
            subject: subject(),
            history: history(),
            max_age_ms: u64::MAX,
        },
        Some(Event::VerificationOverdue { .. }) => Event::VramAllocated {
            subject: subject(),
            model: model(),
            requested_bytes: u64::MAX,
            allocated_bytes: u64::MAX,
            available_bytes: Some(u64::MAX),
            used_bytes: u64::MAX,
            memory_locked: false,
            dumpable: true,
        },
        Some(Event::VramAllocated { .. }) => Event::VramAllocationFailed {
            shard: shard(),
            device: "cuda:4294967295".into(),
            requested_bytes: u64::MAX,
            available_bytes: Some(u64::MAX),
            reason: text(),
        },
        Some(Event::VramAllocationFailed { .. }) => Event::VramDeallocated {
            subject: subject(),
            freed_bytes: u64::MAX,
            used_bytes: u64::MAX,
            wiped: false,
            freed: false,
            inherited: true,
        },
        Some(Event::VramDeallocated { .. }) => Event::VramSealed {
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
        Some(Event::VramSealed { .. }) => return None,
    };
    Some(event)
}

fn line(event: Event) -> Vec<u8> {
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
    let mut event = after(None, said, accepted);
    while let Some(here) = event {
        event = after(Some(&here), said, accepted);
        let name = here.name();
        let line = line(here);
        assert!(line.len() <= MAX_LINE_BYTES, "{name}: {}", line.len());
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["event"], name);
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes, and safe code alone")]
fn the_longest_texts_of_each_kind_fit_into_a_line() {
    for piece in PIECES {
        let accepted = piece.repeat(crate::audit::MAX_TEXT_BYTES / piece.len());
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
