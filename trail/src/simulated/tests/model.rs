//! The records given to the trail and its promises, kept independently of the library, and the
//! comparison with the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::super::event::{Event, Seq, Violation};
use super::super::super::queue::Lane;
use super::super::super::{AnchorState, Checkpoint, NotDurable, Outcome, Report, Shared};
use crate::application::Plain;

/// What the test knows independently of the library.
#[derive(Default)]
pub(super) struct Model {
    /// The given records, by the number of their text.
    pub(super) given: Vec<Given>,
    /// The numbers of records without room, run by run.
    pub(super) refused: Vec<(usize, u64)>,
    /// Every number that a caller got, with Ok or Err, and the text for which it got the number.
    pub(super) told: BTreeMap<u64, usize>,
    /// The number of records that were refused without a number.
    pub(super) unnumbered: u64,
    /// The records that must be accounted for, since a record behind them has a receipt.
    pub(super) explained: BTreeSet<u64>,
    pub(super) run: usize,
    pub(super) newest: Option<Checkpoint>,
    /// The newest checkpoint that an anchor ever got. It never forgets.
    pub(super) anchored: Option<Arc<Checkpoint>>,
    /// `None` if it cannot be known.
    pub(super) closed: Option<bool>,
    pub(super) opened: bool,
}

pub(super) struct Given {
    pub(super) run: usize,
    pub(super) seq: u64,
    pub(super) taken: bool,
    pub(super) acknowledged: bool,
}

impl Model {
    pub(super) fn give(
        &mut self,
        shared: &Arc<Shared<Plain>>,
        critical: bool,
        length: usize,
    ) -> Option<Seq> {
        let text = format!("{} {}", self.given.len(), "x".repeat(length));
        let (event, lane) = if critical {
            let violation = Box::new(Violation {
                policy: text.into(),
                violation: "v".into(),
                details: "d".into(),
                action: "a".into(),
            });
            (Event::PolicyViolation { violation }, Lane::Critical)
        } else {
            (Event::Note { text: text.into() }, Lane::Ordinary)
        };
        let (mark, taken) = shared.push(event, lane);
        if matches!(taken, Err(NotDurable::NoNumber)) {
            assert_eq!(mark.seq, None);
            self.unnumbered += 1;
        }
        // `None` if the trail is being closed, or there are no more numbers.
        let seq = mark.seq?;
        if let Err(error) = &taken {
            assert!(matches!(error, NotDurable::QueueFull { .. }), "{error}");
            self.refused.push((self.run, seq.0));
        }
        self.tell(seq, self.given.len());
        self.given.push(Given {
            run: self.run,
            seq: seq.0,
            taken: taken.is_ok(),
            acknowledged: false,
        });
        taken.is_ok().then_some(seq)
    }

    /// Notes that a caller got a number, which no caller got before, in any run.
    pub(super) fn tell(&mut self, seq: Seq, number: usize) {
        let before = self.told.insert(seq.0, number);
        assert_eq!(before, None, "number {seq} was told before");
    }

    /// Notes a receipt for this number: everything before it is durable, too.
    pub(super) fn acknowledge(&mut self, last: u64) {
        let run = self.run;
        for given in self.given.iter_mut().rev().take_while(|g| g.run == run) {
            given.acknowledged |= given.taken && given.seq <= last;
        }
        let refused = self.refused.iter().rev().take_while(|entry| entry.0 == run);
        self.explained
            .extend(refused.map(|entry| entry.1).filter(|seq| *seq <= last));
    }

    pub(super) fn anchor(&mut self, shared: &Shared<Plain>) {
        if let Some(offered) = shared.anchors.offered() {
            self.anchored = Some(offered);
        }
    }

    /// Ends the wait of all callers in this run that still wait for a receipt, unless there is one.
    pub(super) fn give_up_waiting(&mut self, shared: &Shared<Plain>) {
        let given = self.given.iter().rev();
        let waiting = given.take_while(|given| given.run == self.run && !given.acknowledged);
        let waiting: Vec<u64> = waiting.filter(|g| g.taken).map(|g| g.seq).collect();
        for seq in waiting {
            if let Ok(receipt) = shared.queue.wait_durable(Seq(seq), Duration::ZERO) {
                self.acknowledge(seq);
                self.receive(receipt.checkpoint());
                return;
            }
        }
    }

    pub(super) fn receive(&mut self, checkpoint: &Checkpoint) {
        if let Some(newest) = &self.newest {
            assert!(newest.size() <= checkpoint.size(), "receipts go back");
        }
        self.newest = Some(checkpoint.clone());
    }

    /// Compares the report with the model. `honest` of its anchors came from the trail; the others
    /// were found in void bytes.
    pub(super) fn agrees(&self, report: &Report, honest: usize, contents: &BTreeMap<u64, Vec<u8>>) {
        assert_eq!(report.outcome, Outcome::Holds, "{report}");
        assert!(!report.older_segments_absent, "{report}");
        for (index, anchor) in report.anchors.iter().enumerate() {
            let allowed = anchor.state == AnchorState::Confirmed
                || (anchor.state == AnchorState::Voided && index >= honest);
            assert!(
                allowed,
                "anchor {index} of {honest}, {:?}: {report}",
                anchor.state
            );
        }
        if let Some(closed) = self.closed {
            assert_eq!(report.closed, closed, "{report}");
            assert!(!closed || report.tail.is_none(), "{report}");
        }
        let mut lost = BTreeSet::new();
        for [first, last] in &report.lost {
            lost.extend(*first..=*last);
        }
        let all = lost.len() as u64 + report.lost_unnumbered;
        assert_eq!(report.records_lost, all, "{report}");
        let refused: BTreeSet<u64> = self.refused.iter().map(|entry| entry.1).collect();
        // A number that no caller got stands for the first loss without a number.
        let standing: Vec<&u64> = lost.difference(&refused).collect();
        let is_told = |seq: &&&u64| self.told.contains_key(seq);
        assert_eq!(standing.iter().find(is_told), None, "invented: {report}");
        let unnumbered = standing.len() as u64 + report.lost_unnumbered;
        assert!(
            unnumbered <= self.unnumbered,
            "a loss is invented: {report}"
        );
        assert!(self.explained.is_subset(&lost), "a loss is kept: {report}");

        let records = acknowledged(contents, report.leaves);
        assert_eq!(records.len() as u64, report.records, "{report}");
        check_runs(report, &records);
        let mut found = BTreeSet::new();
        for pair in records
            .windows(2)
            .filter(|pair| pair[0]["event"] == "TrailClosed")
        {
            assert_eq!(pair[1]["event"], "TrailOpened", "behind the end of a run");
        }
        for record in &records {
            let text = match record["event"].as_str().unwrap() {
                "Note" => &record["text"],
                "PolicyViolation" => &record["policy"],
                event => {
                    let seq = record["seq"].as_u64().unwrap();
                    let told = self.told.get(&seq);
                    assert_eq!(told, None, "{event} has a number that was told");
                    continue;
                }
            };
            let text = text.as_str().unwrap();
            let number: usize = text.split(' ').next().unwrap().parse().unwrap();
            let given = &self.given[number];
            assert!(given.taken, "text {number} was refused and is there");
            assert_eq!(record["seq"], given.seq, "text {number}");
            assert!(found.insert(number), "text {number} is there twice");
        }
        for (number, given) in self.given.iter().enumerate() {
            assert!(
                !given.acknowledged || found.contains(&number),
                "text {number}, record {}, has a receipt and is gone\n{report}",
                given.seq
            );
        }
    }
}

/// Checks that a run ends with `TrailClosed`, or was killed if another one follows.
fn check_runs(report: &Report, records: &[Value]) {
    let ends = records
        .windows(2)
        .filter(|pair| pair[1]["event"] == "TrailOpened");
    let closed = |pair: &&[Value]| pair[0]["event"] == "TrailClosed";
    let (closed, killed): (Vec<_>, Vec<_>) = ends.partition(closed);
    assert_eq!(report.runs.killed, killed.len() as u64, "{report}");
    let last = u64::from(report.closed);
    assert_eq!(report.runs.closed, closed.len() as u64 + last, "{report}");
    for (kill, ends) in report.kills.iter().zip(killed) {
        let (last, next) = (&ends[0], &ends[1]);
        assert_eq!(last["time"], *kill.last_time.as_ref().unwrap(), "{report}");
        assert_eq!(next["time"], *kill.next_time, "{report}");
        assert_eq!(next["seq"], kill.next_seq, "{report}");
    }
}

/// Returns whole checkpoints among void bytes. Some of them were signed before a write or a sync
/// that failed.
pub(super) fn signed_in_void(contents: &BTreeMap<u64, Vec<u8>>) -> Vec<Checkpoint> {
    let mut found = Vec::new();
    for (segment, bytes) in contents {
        let Some(end) = stated_end(contents, *segment) else {
            continue;
        };
        let void = bytes.get(end..).unwrap_or_default();
        found.extend(checkpoints_in(void));
    }
    found
}

/// Returns signed notes among arbitrary bytes, found by their signatures. The origin is repeated in
/// the signature's line, so it may be missing at the beginning.
pub(super) fn checkpoints_in(bytes: &[u8]) -> Vec<Checkpoint> {
    let text = String::from_utf8_lossy(bytes);
    let signatures = text.match_indices(r"\n\n— ");
    let notes = signatures.filter_map(|(at, mark)| {
        let mut before = text[..at].rsplitn(3, r"\n");
        let (root, size) = (before.next()?, before.next()?);
        before.next()?;
        let (origin, rest) = text[at + mark.len()..].split_once(' ')?;
        let signature = rest.get(..92)?;
        let note = format!("{origin}\n{size}\n{root}\n\n— {origin} {signature}\n");
        note.parse().ok()
    });
    notes.collect()
}

/// Returns where the next segment states that this one ends.
fn stated_end(contents: &BTreeMap<u64, Vec<u8>>, segment: u64) -> Option<usize> {
    let next = contents.get(&(segment + 1))?;
    let header = next.split(|byte| *byte == b'\n').next().unwrap();
    let header: Value = serde_json::from_slice(header).unwrap();
    Some(usize::try_from(header["previous"]["end"].as_u64().unwrap()).unwrap())
}

/// Returns the first `leaves` records without void bytes, read by the format's rules and without
/// the library's code.
pub(super) fn acknowledged(contents: &BTreeMap<u64, Vec<u8>>, leaves: u64) -> Vec<Value> {
    let mut records = Vec::new();
    for (segment, bytes) in contents {
        let next = stated_end(contents, *segment);
        for line in bytes[..next.unwrap_or(bytes.len())].split(|byte| *byte == b'\n') {
            if records.len() as u64 == leaves || line.is_empty() {
                break;
            }
            if !line.starts_with(b"{\"checkpoint\"") {
                records.push(serde_json::from_slice(line).unwrap());
            }
        }
    }
    records
}
