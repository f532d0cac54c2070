//! The parts of events that several of them share, and those with many fields.

use std::sync::Arc;

use serde::Serialize;

use super::{Seq, Text};
use crate::builder::Retention;
use crate::clock::Time;
use crate::key::{Custody, FileAccess};
use crate::process::Guard;
use crate::storage::Medium;

/// The version of the trail's format that this library writes. Trails without a version are of
/// version 1 and keep its rules for ever.
pub(crate) const FORMAT: u64 = 2;

/// The end of the previous segment, as the header of the next one states it.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub(crate) struct Previous {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    /// How many bytes may stand behind `end`: those found when the trail was opened again, or those
    /// of the failed write. Version 0.1.0 did not state it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) void: Option<u64>,
    pub(crate) checkpoint: String,
    pub(crate) frontier: Vec<String>,
    /// The checkpoints behind `end` that were signed and never acknowledged. Since format 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) voided: Vec<VoidedCheckpoint>,
    /// The number of such checkpoints, if not all are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) voided_total: Option<u64>,
}

/// A checkpoint that was signed and never acknowledged. A keeper of it has got it from void bytes.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub(crate) struct VoidedCheckpoint {
    pub(crate) size: u64,
    pub(crate) root: String,
}

/// The fields of a segment's first record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Header {
    /// The version of the rules that the segment's run was written under: [`FORMAT`].
    pub(crate) format: u64,
    /// Every number is below this bound until a later record raises it. A run after a kill begins
    /// there.
    pub(crate) numbers_below: u64,
    pub(crate) segment: u64,
    pub(crate) first_leaf: u64,
    pub(crate) origin: Arc<str>,
    pub(crate) key: Arc<str>,
    pub(crate) retention: Retention,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Previous>,
}

/// The configuration in force, as `TrailOpened` states it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Configuration {
    pub(crate) fault_injection: bool,
    /// The access of the key that the trail is opened with.
    pub(crate) key_access: Custody,
    pub(crate) directory_access: FileAccess,
    #[serde(flatten)]
    pub(crate) medium: Option<Medium>,
    /// `None` if nothing watches for forks, as in a test that opens no directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fork_guard: Option<Guard>,
    /// The system calls that were refused so far, and that the process does without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused_calls: Vec<&'static str>,
    pub(crate) critical_deadline_ms: u64,
    pub(crate) durable_within_ms: u64,
    pub(crate) queue_records: u64,
    pub(crate) reserved_records: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age_s: u64,
    pub(crate) failure_window_s: u64,
    pub(crate) failure_threshold_per_mille: u16,
    /// The names of the anchors, the log's first.
    pub(crate) anchors: Vec<Arc<str>>,
    pub(crate) anchor_every_records: u64,
    pub(crate) anchor_every_ms: u64,
    /// The explicit exceptions of this opening: origins, and anchors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) new_origin_beside: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored_unverifiable_anchors: Vec<Arc<str>>,
}

/// Records that are not in the trail: a range of numbers, and the count of those without a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Lost {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unnumbered: u64,
    pub(crate) cause: LossCause,
    pub(crate) first_time: Time,
    pub(crate) last_time: Time,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LossCause {
    /// The queue was full.
    QueueFull,
}

/// Who made a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    /// Code that uses this crate, through a function that takes its text.
    Caller,
    /// This crate, about its own actions and observations.
    Library,
}

/// The fields of `PolicyViolation`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    pub(crate) policy: Text,
    pub(crate) violation: Text,
    pub(crate) details: Text,
    pub(crate) action: Text,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
