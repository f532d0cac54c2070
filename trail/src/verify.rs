//! The check of a whole trail with verifier keys and anchors, without trust in its writer.
//!
//! It is one pass over the segments, in constant memory. It does not stop at the first bad line:
//! each segment's header holds the tree's frontier, so the check continues with the next one. It
//! returns one of three outcomes, and states what the outcome does not cover. It does not know what
//! records mean, except records about the trail itself.

mod anchors;
mod contents;
mod meter;
mod numbers;
mod report;
mod runs;
mod shape;
mod verdict;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::checkpoint::{Checkpoint, VerifierKey};
use super::event::FORMAT;
use super::files::{list, open, stated_end};
use super::segment::{self, Behind, Fact, Header, Place, Seen, SegmentSummary};

use anchors::Anchors;
use contents::Contents;
use meter::Meter;
pub use meter::Progress;
use numbers::{Numbers, Run};
use report::push;
pub use report::{AnchorReport, AnchorState, Finding, KeyReport, Outcome, Report, Unacknowledged};
pub use runs::{KilledRun, Runs};
use shape::Shape;
pub use verdict::{Accepted, Missing, UnanchoredEnd, Verdict};

/// Checks the trail in the directory `dir` against the verifier keys and the anchors (checkpoints
/// that were kept where the process cannot rewrite them).
///
/// An unreadable file is no error: the report's outcome is then [`Outcome::NotChecked`], unless
/// something else is broken. Without an anchor of the last checkpoint, [`Report::end_vouched_for`]
/// is false, since a holder of the disk can cut a trail at a checkpoint.
pub fn verify(dir: impl AsRef<Path>, keys: &[VerifierKey], anchors: &[Checkpoint]) -> Report {
    check(dir.as_ref(), keys, anchors, &mut |_| {
        ControlFlow::Continue(())
    })
}

/// Checks a trail as [`verify`] does, and calls `progress` on the way with the bytes read.
/// [`ControlFlow::Break`] stops the check. The outcome is then [`Outcome::NotChecked`], unless
/// something was broken before.
pub fn verify_with_progress(
    dir: impl AsRef<Path>,
    keys: &[VerifierKey],
    anchors: &[Checkpoint],
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Report {
    check(dir.as_ref(), keys, anchors, &mut progress)
}

fn check(
    dir: &Path,
    keys: &[VerifierKey],
    anchors: &[Checkpoint],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Report {
    let mut check = Check::new(keys, anchors, Meter::new(progress));
    match list(dir) {
        Err(error) => check.not_checked(format!("the directory cannot be read: {error}")),
        Ok(numbers) if numbers.is_empty() => {
            check.not_checked("the directory holds no segment".to_owned());
        }
        Ok(_) if keys.is_empty() => check.not_checked("no verifier key was given".to_owned()),
        Ok(numbers) => check.segments(dir, &numbers),
    }
    check.finish()
}

struct Check<'a> {
    keys: &'a [VerifierKey],
    meter: Meter<'a>,
    anchors: Anchors<'a>,
    report: Report,
    /// Findings in segments whose origin fits no given key. They count only if the trail belongs to
    /// a given key.
    foreign: Vec<Finding>,
    foreign_origin: Option<String>,
    /// A given key vouches for a part of the trail, or should.
    ours: bool,
    /// The number of segments whose key was not given.
    not_given: u64,
    /// The first leaf of the first segment that was checked.
    first_leaf: Option<u64>,
    numbers: Numbers,
    contents: Contents,
    shape: Shape,
    /// The summary that the next segment's header must agree with.
    before: Option<SegmentSummary>,
}

impl<'a> Check<'a> {
    fn new(keys: &'a [VerifierKey], anchors: &'a [Checkpoint], meter: Meter<'a>) -> Self {
        Self {
            keys,
            meter,
            anchors: Anchors::new(anchors),
            report: Report::new(),
            foreign: Vec::new(),
            foreign_origin: None,
            ours: false,
            not_given: 0,
            first_leaf: None,
            numbers: Numbers::default(),
            contents: Contents::default(),
            shape: Shape::new(),
            before: None,
        }
    }

    /// Notes that the next segment does not follow on the last one read.
    fn skip(&mut self) {
        self.numbers.skip();
        self.shape.skip();
    }

    fn not_checked(&mut self, reason: String) {
        push(&mut self.report.not_checked, reason);
    }

    fn segments(&mut self, dir: &Path, numbers: &[u64]) {
        self.report.segments = u64::try_from(numbers.len()).unwrap_or(u64::MAX);
        self.report.first_segment = numbers.first().copied();
        self.report.older_segments_absent = numbers.first().is_some_and(|first| *first > 0);
        if self.report.older_segments_absent {
            self.skip();
        }
        self.meter.expect(numbers.iter().map(|number| {
            let file = open(dir, *number).and_then(|file| file.metadata());
            file.map_or(0, |file| file.len())
        }));
        let mut expected = None;
        for (index, number) in numbers.iter().copied().enumerate() {
            if let Some(expected) = expected.filter(|expected| *expected != number) {
                self.absent(expected, number);
            }
            let next = numbers.get(index.saturating_add(1)).copied();
            self.segment(dir, number, next);
            if self.meter.is_stopped() {
                self.not_checked("the check was stopped".to_owned());
                return;
            }
            expected = Some(number.saturating_add(1));
        }
    }

    fn absent(&mut self, expected: u64, number: u64) {
        self.skip();
        self.before = None;
        self.report.find(Finding {
            segment: Some(expected),
            words: format!("the segments from here up to {number:06} are missing"),
            ..Finding::default()
        });
    }

    fn segment(&mut self, dir: &Path, number: u64, next: Option<u64>) {
        let before = self.before.take();
        let end = stated_end(dir, number, next);
        let summary =
            open(dir, number).and_then(|file| self.read(file, number, end, before.as_ref()));
        match summary {
            Err(_) if self.meter.is_stopped() => self.skip(),
            Err(error) => {
                self.not_checked(format!("segment {number:06} cannot be read: {error}"));
                self.skip();
            }
            Ok(summary) => self.account(number, summary, before, next.is_none()),
        }
    }

    /// Reads one segment. Only records that a matching checkpoint covers reach numbers and anchors.
    fn read(
        &mut self,
        file: File,
        number: u64,
        end: Option<u64>,
        before: Option<&SegmentSummary>,
    ) -> io::Result<SegmentSummary> {
        let run = number.checked_sub(1).map(|segment| Run {
            segment,
            void: before
                .filter(|before| !before.is_damaged())
                .map(|before| (before.end, before.behind.bytes)),
        });
        let (anchors, report, committed) = (&mut self.anchors, &mut self.report, &mut self.numbers);
        let first_leaf = &mut self.first_leaf;
        let mut numbers = committed.clone();
        let (mut contents, all_contents) = (self.contents, &mut self.contents);
        let accepted = &mut self.shape;
        let mut shape = accepted.clone();
        let mut start = 0;
        let source = self.meter.over(file);
        let summary = segment::read(source, number, self.keys, end, &mut |seen| match seen {
            Seen::Start(tree) => {
                anchors.see(tree);
                start = tree.size();
            }
            Seen::Record(place, record, tree) => {
                anchors.see(tree);
                if let Fact::Header(header) = &record.fact {
                    anchors.declare(number, &header.voided().unwrap_or_default());
                }
                numbers.record(place, record, run);
                contents.record(record);
                shape.record(place, record);
            }
            Seen::Acknowledged(checkpoint) => {
                anchors.acknowledge(checkpoint);
                first_leaf.get_or_insert(start);
                list_numbers(&mut numbers, number, report);
                committed.clone_from(&numbers);
                *all_contents = contents;
                if let Some((place, words)) = shape.take_complaint() {
                    report.find(finding(number, place, words));
                }
                accepted.clone_from(&shape);
            }
        })?;
        self.anchors.forget();
        Ok(summary)
    }

    fn account(
        &mut self,
        number: u64,
        summary: SegmentSummary,
        before: Option<SegmentSummary>,
        last: bool,
    ) {
        if let Some(header) = summary.header.as_ref().filter(|it| it.format > FORMAT) {
            return self.later_format(number, header.format);
        }
        let continuation = before.and_then(|before| continues(&before, &summary));
        if let Some(words) = continuation {
            self.report.find(finding(number, START, words));
        }
        if let Some(header) = summary.header.as_ref().filter(|_| !summary.is_checked()) {
            return self.no_key(number, header);
        }
        self.ours = true;
        for damage in &summary.damage {
            self.report.find(Finding {
                leaves: Some([damage.leaves.start, damage.leaves.end]),
                ..finding(number, damage.place, damage.words)
            });
        }
        if summary.is_damaged() {
            self.skip();
        }
        self.unacknowledged(number, summary.behind, last);
        if let (Some(header), Some(checkpoint)) = (&summary.header, &summary.checkpoint) {
            let leaves = [header.first_leaf, checkpoint.size()];
            self.report.key(&header.key, number, Some(leaves));
            self.report.origin = Some(checkpoint.origin().to_owned());
            self.report.leaves = checkpoint.size();
            self.report.last_checkpoint = Some(checkpoint.to_string());
        }
        self.before = Some(summary);
    }

    /// Notes a segment of a later format. Its rules are not known here, so it cannot be judged.
    fn later_format(&mut self, number: u64, format: u64) {
        self.skip();
        self.not_checked(format!(
            "segment {number:06} is written in format {format}, and this version knows formats up to {FORMAT}: verify the trail with the version that wrote it"
        ));
    }

    /// Notes a segment whose key was not given. Nothing in it is proven.
    fn no_key(&mut self, number: u64, header: &Header) {
        self.skip();
        self.not_given = self.not_given.saturating_add(1);
        self.report.key(beginning(&header.key), number, None);
        if self.keys.iter().all(|key| key.name() != header.origin) {
            self.foreign_origin = Some(header.origin.clone());
            let words = "the segment is of another trail";
            push(&mut self.foreign, finding(number, START, words));
        }
    }

    fn unacknowledged(&mut self, segment: u64, behind: Behind, last: bool) {
        if behind.bytes == 0 {
            return;
        }
        let found = Unacknowledged {
            segment,
            bytes: behind.bytes,
            records: behind.records,
        };
        if last {
            self.report.tail = Some(found);
        } else {
            self.report.void_bytes = self.report.void_bytes.saturating_add(found.bytes);
            push(&mut self.report.void, found);
        }
    }

    fn finish(mut self) -> Report {
        if self.ours {
            for finding in std::mem::take(&mut self.foreign) {
                self.report.find(finding);
            }
        } else if let Some(origin) = self.foreign_origin.take() {
            self.not_checked(format!("no given key has the trail's origin {origin:?}"));
        }
        for words in self.report.not_given(self.not_given) {
            self.not_checked(words);
        }
        for gap in self.numbers.gaps() {
            let last = gap.end.saturating_sub(1);
            self.report.find(Finding {
                words: format!(
                    "numbers {} to {last} are missing without a reason",
                    gap.start
                ),
                ..Finding::default()
            });
        }
        let report = &mut self.report;
        report.first_leaf = self.first_leaf.unwrap_or(0);
        report.records = self.numbers.records;
        self.contents.report(report);
        report.first_seq = self.numbers.first;
        report.last_seq = self.numbers.last;
        report.records_lost = self.numbers.lost;
        report.lost_unnumbered = self.numbers.lost_unnumbered;
        report.never_acknowledged = self.numbers.never_acknowledged;
        report.runs = self.numbers.runs.runs;
        // Without a check of the last segment there is no summary here, and so no tail.
        let tail = self.before.as_ref().map(|last| last.behind.bytes);
        let vouched = self.anchors.finish(self.keys, report, tail.is_some());
        report.closed = self.numbers.closed && tail == Some(0);
        report.runs.closed = report.runs.closed.saturating_add(report.closed.into());
        report.outcome = if report.findings_total > 0 {
            Outcome::Broken
        } else if report.not_checked.is_empty() {
            Outcome::Holds
        } else {
            Outcome::NotChecked
        };
        report.end_vouched_for = vouched && report.outcome == Outcome::Holds;
        self.report
    }
}

/// The most bytes that are kept of the name of a key that was not given. Any writer of the disk
/// chooses its length.
const MAX_KEY_BYTES: usize = 512;

fn beginning(key: &str) -> &str {
    let fits = |end| key.get(..end);
    (0..=MAX_KEY_BYTES).rev().find_map(fits).unwrap_or_default()
}

/// The place of a header.
const START: Place = Place {
    offset: 0,
    line: 1,
    leaf: 0,
};

fn finding(segment: u64, place: Place, words: &str) -> Finding {
    Finding {
        segment: Some(segment),
        offset: Some(place.offset),
        line: Some(place.line),
        leaves: None,
        words: words.to_owned(),
    }
}

fn list_numbers(numbers: &mut Numbers, segment: u64, report: &mut Report) {
    let (complaints, lost, kills) = numbers.take_listed();
    for complaint in complaints {
        report.find(finding(segment, complaint.place, &complaint.words));
    }
    for range in lost {
        push(&mut report.lost, range);
    }
    for kill in kills {
        report.kill(kill);
    }
}

/// Returns what is wrong with how a segment continues the one before it. The end is compared while
/// that segment is read.
fn continues(before: &SegmentSummary, next: &SegmentSummary) -> Option<&'static str> {
    let header = next.header.as_ref()?;
    if before.is_damaged() {
        return None;
    }
    let (stated, found) = (header.previous.as_ref()?, before.previous()?);
    if stated.checkpoint != found.checkpoint {
        return Some("the header names another checkpoint than the segment before it ends with");
    }
    if stated.frontier != found.frontier {
        return Some("the header names another frontier than the segment before it ends with");
    }
    let key = &before.header.as_ref()?.key;
    if header.key != *before.next_key.as_ref().unwrap_or(key) {
        return Some("the header names another key than the segment before it announces");
    }
    next.void_before
        .is_some_and(|void| before.behind.bytes > void)
        .then_some("the segment before has more void bytes than its process left")
}
