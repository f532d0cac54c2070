//! The walk over a segment's lines: which are acknowledged, which are behind the acknowledged part,
//! and which are damaged.
//!
//! It takes one line after the other. It knows nothing of files or of other segments.

use std::ops::Range;

use super::super::checkpoint::{Checkpoint, VerifierKey, decode_base64};
use super::super::event::{FORMAT, Previous};
use super::super::merkle::{Frontier, Node};
use super::Seen;
use super::line::{Closed, Fact, Header, Line, Opening, Record, Rules};
use super::summary::{Behind, Damage, Place, SegmentSummary};

/// The most damage entries listed for one segment. The count is exact.
const MAX_LISTED: usize = 32;

pub(super) struct Walk<'a> {
    keys: &'a [VerifierKey],
    /// The key that the header names.
    key: Option<&'a VerifierKey>,
    acknowledged: Option<u64>,
    visit: &'a mut dyn FnMut(Seen<'_>),
    rules: Rules,
    /// The last record and the origin name the same worker.
    worker_is_ours: bool,
    tree: Frontier,
    /// Where the current line starts.
    at: Place,
    /// The first irregular line since the last matching checkpoint.
    suspect: Option<(Place, &'static str)>,
    /// The next key, if the last record is a change of key.
    next_key: Option<String>,
    /// Something behind the last matching checkpoint cannot be part of a torn batch.
    beyond_tearing: bool,
    summary: SegmentSummary,
}

/// The result of a checkpoint for the lines before it.
enum Verdict {
    Matches,
    Mismatch(&'static str),
    NotSigned,
    OutOfPlace,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        number: u64,
        keys: &'a [VerifierKey],
        acknowledged: Option<u64>,
        visit: &'a mut dyn FnMut(Seen<'_>),
    ) -> Self {
        Self {
            keys,
            key: None,
            acknowledged,
            visit,
            rules: Rules::default(),
            worker_is_ours: false,
            tree: Frontier::default(),
            at: Place {
                line: 1,
                ..Place::default()
            },
            suspect: None,
            next_key: None,
            beyond_tearing: false,
            summary: SegmentSummary {
                header: None,
                end: 0,
                settled: 0,
                checkpoint: None,
                frontier: Frontier::default(),
                highest_seq: None,
                behind: Behind::default(),
                key_is_given: false,
                signed: 0,
                next_key: None,
                void_before: None,
                damage: Vec::new(),
                damage_count: 0,
                number,
            },
        }
    }

    pub(super) fn step(&mut self, line: Line<Node>, length: u64) {
        let next = Place {
            offset: self.at.offset.saturating_add(length),
            line: self.at.line.saturating_add(1),
            leaf: self.at.leaf,
        };
        let worker = match &line {
            Line::Record(record, _) => record.worker.clone(),
            _ => None,
        };
        let line = self.rules.apply(line);
        self.count(&line, length);
        if self.at.line == 1 {
            self.header(&line);
        }
        if let Some(worker) = worker {
            let header = self.summary.header.as_ref();
            self.worker_is_ours = header.is_some_and(|header| header.is_of(&worker));
        }
        if self.acknowledged.is_none_or(|end| self.at.offset < end) {
            self.judge(line, next.offset);
        } else if let Line::Checkpoint(Ok(checkpoint)) = line {
            self.sign(&checkpoint);
        }
        self.at = Place {
            leaf: self.tree.size(),
            ..next
        };
    }

    /// Updates the account of the bytes behind the last matching checkpoint.
    fn count(&mut self, line: &Line<Node>, length: u64) {
        let behind = &mut self.summary.behind;
        // An intended checkpoint line may be damaged like any line, and then continue behind a
        // newline that is itself damage. Another line of the trail cannot result from that.
        let is_readable = matches!(line, Line::Checkpoint(_) | Line::Record(..));
        behind.many_batches |= behind.whole || (behind.checkpoints > 0 && is_readable);
        behind.whole |= matches!(line, Line::Checkpoint(Ok(_)));
        behind.bytes = behind.bytes.saturating_add(length);
        match line {
            Line::Checkpoint(_) => behind.checkpoints = behind.checkpoints.saturating_add(1),
            Line::Record(record, _) => {
                behind.records = behind.records.saturating_add(1);
                self.summary.highest_seq = self.summary.highest_seq.max(Some(record.seq));
            }
            Line::Torn | Line::Unreadable(_) => {}
        }
    }

    fn header(&mut self, line: &Line<Node>) {
        let result = match line {
            Line::Record(
                Record {
                    fact: Fact::Header(header),
                    ..
                },
                _,
            ) => self.open(header),
            _ => Err("the segment does not begin with a header"),
        };
        if let Err(words) = result {
            self.damage(self.at, self.tree.size()..self.tree.size(), words);
        }
        self.summary.frontier = self.tree.clone();
        self.at.leaf = self.tree.size();
        (self.visit)(Seen::Start(&self.tree));
    }

    /// Takes the tree from the header, as far as a signed checkpoint vouches for it.
    fn open(&mut self, header: &Header) -> Result<(), &'static str> {
        self.summary.header = Some(header.clone());
        self.key = self
            .keys
            .iter()
            .find(|key| key.name() == header.origin && key.to_string() == header.key);
        self.summary.key_is_given = self.key.is_some();
        let stated = header.previous.as_ref().and_then(|previous| previous.void);
        // A process that opens a trail and finds void bytes states so in its second record.
        self.summary.void_before = stated.or((header.event == Opening::TrailOpened).then_some(0));
        if header.format > FORMAT {
            return Err("the header is of a format that this version does not know");
        }
        if let Some(previous) = &header.previous {
            if header.format == FORMAT && previous.void.is_none() {
                return Err("the header does not say how many void bytes there may be");
            }
            self.tree = Self::frontier(header, previous)?;
        }
        if header.segment != self.summary.number {
            return Err("the header is that of another segment");
        }
        let before = header.previous.as_ref().map(|previous| previous.segment);
        if before != self.summary.number.checked_sub(1) {
            return Err("the header does not name the segment before it");
        }
        if header.first_leaf != self.tree.size() {
            return Err("the header's first leaf is not the size of the tree before it");
        }
        header
            .voided()
            .map(drop)
            .ok_or("the header declares void what is no checkpoint behind the segment before")
    }

    /// Returns the tree before this segment. Its checkpoint may be signed with a key that was not
    /// given. The header is a leaf, so every matching checkpoint of this segment vouches for both.
    fn frontier(header: &Header, previous: &Previous) -> Result<Frontier, &'static str> {
        let checkpoint: Checkpoint = previous
            .checkpoint
            .parse()
            .map_err(|_| "the header holds no checkpoint of the segment before")?;
        if !checkpoint.has_one_signature() || checkpoint.origin() != header.origin {
            return Err("the checkpoint in the header is not one of this trail");
        }
        let nodes = previous
            .frontier
            .iter()
            .map(|node| decode_base64(node)?.try_into().ok())
            .collect::<Option<Vec<_>>>();
        nodes
            .and_then(|nodes| Frontier::from_nodes(checkpoint.size(), nodes))
            .filter(|tree| tree.root() == checkpoint.root())
            .ok_or("the frontier in the header does not have the root of its checkpoint")
    }

    fn judge(&mut self, line: Line<Node>, next: u64) {
        match line {
            Line::Checkpoint(Ok(checkpoint)) => self.checkpoint(checkpoint, next),
            Line::Checkpoint(Err(words)) | Line::Unreadable(words) => self.suspect(words),
            Line::Record(record, leaf) => {
                if let Some(words) = self.objection(&record.fact) {
                    self.suspect(words);
                }
                self.tree.push(leaf);
                (self.visit)(Seen::Record(self.at, &record, &self.tree));
            }
            Line::Torn => self.suspect("the last line is torn"),
        }
    }

    /// Returns what is wrong with a record by the rules that format 2 adds to format 1.
    fn objection_of_format_2(&self, fact: &Fact) -> Option<&'static str> {
        let header = self.summary.header.as_ref()?;
        if header.format != FORMAT {
            return None;
        }
        let stated = header.previous.as_ref().and_then(|previous| previous.void);
        match fact {
            _ if !self.worker_is_ours => Some("a record is of another worker than the origin"),
            Fact::Closed(Closed { offset: None }) => {
                Some("`TrailClosed` does not say where it stands")
            }
            Fact::KeyChanged(changed) if changed.previous_key.as_ref() != Some(&header.key) => {
                Some("`KeyChanged` names another key than the header as the one before")
            }
            Fact::Recovered(tail) if Some(tail.void_bytes) != stated => {
                Some("`TailRecovered` names other void bytes than the header")
            }
            _ => None,
        }
    }

    /// Takes a record's statement about the trail itself, and returns what is wrong with it.
    fn objection(&mut self, fact: &Fact) -> Option<&'static str> {
        let key_has_changed = self.next_key.take().is_some();
        if let Some(words) = self.objection_of_format_2(fact) {
            return Some(words);
        }
        match fact {
            Fact::Closed(Closed {
                offset: Some(offset),
            }) if *offset != self.at.offset => {
                return Some("`TrailClosed` stands elsewhere than it says");
            }
            Fact::Header(_) if self.at.line > 1 => {
                return Some("a header stands inside a segment");
            }
            Fact::KeyChanged(changed) => self.next_key = Some(changed.key.clone()),
            Fact::Recovered(tail) if self.at.line == 2 => {
                let stated = self.summary.header.as_ref()?.previous.as_ref()?.void;
                self.summary.void_before = stated.or(Some(tail.void_bytes));
            }
            Fact::Closed(_)
            | Fact::Header(_)
            | Fact::Incident
            | Fact::Lost(_)
            | Fact::Other
            | Fact::Recovered(_)
            | Fact::Reserved(_) => {}
        }
        key_has_changed.then_some("a record stands behind `KeyChanged`")
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint, next: u64) {
        match self.verdict(&checkpoint) {
            Verdict::Matches => self.acknowledge(checkpoint, next),
            Verdict::Mismatch(words) => self.suspect(words),
            Verdict::NotSigned => {
                self.suspect("a checkpoint is not signed by the given key that the header names");
            }
            Verdict::OutOfPlace => {
                self.beyond_tearing = true;
                self.suspect("a checkpoint covers no record behind the one before it");
            }
        }
    }

    fn verdict(&mut self, checkpoint: &Checkpoint) -> Verdict {
        if !self.sign(checkpoint) {
            return Verdict::NotSigned;
        }
        let header = self.summary.header.as_ref();
        if header.is_none_or(|header| header.origin != checkpoint.origin()) {
            return Verdict::Mismatch("a checkpoint has another origin than the header");
        }
        if checkpoint.size() <= self.summary.frontier.size() {
            return Verdict::OutOfPlace;
        }
        if checkpoint.size() != self.tree.size() {
            return Verdict::Mismatch("a checkpoint counts other leaves than there are");
        }
        if checkpoint.root() != self.tree.root() {
            return Verdict::Mismatch("a checkpoint has another root than the leaves");
        }
        Verdict::Matches
    }

    /// Returns whether the segment's key has signed the checkpoint. A given key that is not the
    /// segment's counts, too.
    fn sign(&mut self, checkpoint: &Checkpoint) -> bool {
        let signed = self.key.is_some_and(|key| checkpoint.is_signed_by(key));
        if signed || self.keys.iter().any(|key| checkpoint.is_signed_by(key)) {
            self.summary.signed = self.summary.signed.saturating_add(1);
            self.summary.behind.signed = self.summary.behind.signed.saturating_add(1);
        }
        signed
    }

    fn acknowledge(&mut self, checkpoint: Checkpoint, next: u64) {
        if let Some((place, words)) = self.suspect.take() {
            self.damage(
                place,
                self.summary.frontier.size()..checkpoint.size(),
                words,
            );
        }
        self.summary.settled = self.summary.end;
        self.summary.end = next;
        self.summary.frontier.clone_from(&self.tree);
        self.summary.next_key.clone_from(&self.next_key);
        self.summary.behind = Behind::default();
        (self.visit)(Seen::Acknowledged(&checkpoint));
        self.summary.checkpoint = Some(checkpoint);
    }

    fn suspect(&mut self, words: &'static str) {
        self.suspect.get_or_insert((self.at, words));
    }

    fn damage(&mut self, place: Place, leaves: Range<u64>, words: &'static str) {
        self.summary.damage_count = self.summary.damage_count.saturating_add(1);
        if self.summary.damage.len() < MAX_LISTED {
            self.summary.damage.push(Damage {
                place,
                leaves,
                words,
            });
        }
    }

    /// Tells a torn tail from damage, since the following bytes are known now.
    pub(super) fn finish(mut self) -> SegmentSummary {
        let leaves = self.summary.frontier.size()..self.tree.size();
        let behind = self.summary.behind;
        let end = self.acknowledged.unwrap_or(self.summary.end);
        // From format 2 on, void bytes may be anything, since other processes may have written
        // there, too. The next header states how many there are.
        let format = self.summary.header.as_ref().map_or(1, |head| head.format);
        let may_be_anything = self.acknowledged.is_some() && format >= 2;
        let torn = self.summary.checkpoint.is_some()
            && end == self.summary.end
            && (may_be_anything || !behind.many_batches)
            && !self.beyond_tearing;
        if torn {
            return self.summary;
        }
        if self.at.line == 1 {
            self.damage(self.at, leaves, "the segment is empty");
        } else if let Some((place, words)) = self.suspect.take() {
            self.damage(place, leaves, words);
        } else if self.summary.checkpoint.is_none() {
            self.damage(self.at, leaves, "the segment holds no matching checkpoint");
        } else if end != self.summary.end {
            self.damage(
                self.at,
                leaves,
                "the segment's last matching checkpoint is not where the next header says",
            );
        } else {
            self.damage(self.at, leaves, "more than one batch is not acknowledged");
        }
        self.summary
    }
}
