//! The numbers of the acknowledged records: in order, none twice, none missing without a reason.
//!
//! It gets records in the order of the file. The caller clones [`Numbers`] at every matching
//! checkpoint, so that unacknowledged records can be dropped. Its lists are bounded. It knows
//! nothing of hashes or signatures.

use std::ops::Range;

use super::super::segment::{Fact, Lost, Opening, Place, Record, Recovered};
use super::runs::{KilledRun, RunBook};

/// The most open gaps, and the most lost ranges, that are kept. A writer that records each gap as
/// soon as there is room never has many open.
const MAX_LISTED: usize = 4096;

/// A fault in a record's number or in its claims about other numbers.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    pub(super) place: Place,
    pub(super) words: String,
}

/// The account of all numbers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// The number of the next record, if none is missing. Headers are ahead of it, in `early`.
    next: u64,
    /// The records before the next one were not read, so a gap there proves nothing.
    unsure: bool,
    /// The number below which nothing is known about missing numbers.
    floor: u64,
    /// Numbers of headers that are larger than the numbers of records written again behind them.
    early: Vec<u64>,
    /// Numbers that are missing so far, ascending.
    gaps: Vec<Range<u64>>,
    /// Where the last process began to write.
    run: Option<Run>,
    /// The first number that was not acknowledged when that process began.
    run_from: u64,
    pub(super) runs: RunBook,
    complaints: Vec<Complaint>,
    pub(super) first: Option<u64>,
    pub(super) last: Option<u64>,
    pub(super) records: u64,
    /// Lost records, including those without a number.
    pub(super) lost: u64,
    pub(super) lost_unnumbered: u64,
    lost_ranges: Vec<[u64; 2]>,
    /// Numbers that killed processes had given and that were never acknowledged.
    pub(super) never_acknowledged: u64,
    /// The last record is a `TrailClosed`.
    pub(super) closed: bool,
}

/// The segment that the previous process left, and what was known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) segment: u64,
    /// Where its acknowledged part ends, and how many bytes follow. `None` if the segment is
    /// damaged.
    pub(super) void: Option<(u64, u64)>,
}

impl Numbers {
    /// Notes that some records before the next one were not read or not proven. They may hold the
    /// reason why numbers before them are missing.
    pub(super) fn skip(&mut self) {
        self.unsure = true;
        self.gaps.clear();
        self.runs.skip();
    }

    /// Takes the complaints, the lost ranges and the killed runs since the last call.
    pub(super) fn take_listed(&mut self) -> (Vec<Complaint>, Vec<[u64; 2]>, Vec<KilledRun>) {
        (
            std::mem::take(&mut self.complaints),
            std::mem::take(&mut self.lost_ranges),
            self.runs.take_kills(),
        )
    }

    /// Returns the numbers still missing without a reason.
    pub(super) fn gaps(&self) -> &[Range<u64>] {
        &self.gaps
    }

    /// Adds a record. `before` is the run before its segment, which a header needs.
    pub(super) fn record(&mut self, place: Place, record: &Record, before: Option<Run>) {
        let result = match &record.fact {
            Fact::Header(header) => {
                let bounded = self.runs.header(record.seq, record.time, header);
                self.place_header(record.seq).and(bounded)
            }
            Fact::Closed(_)
            | Fact::Incident
            | Fact::KeyChanged(_)
            | Fact::Lost(_)
            | Fact::Other
            | Fact::Recovered(_)
            | Fact::Reserved(_) => self.place(record.seq),
        };
        let result = result.and(self.runs.number(record.seq));
        self.complain(place, result);
        let result = match &record.fact {
            Fact::Lost(lost) => self.lost(record.seq, *lost),
            Fact::Recovered(recovered) => self.recovered(record.seq, *recovered),
            Fact::Header(header) if header.event == Opening::TrailOpened => {
                self.run = before;
                self.run_from = self.next;
                Ok(())
            }
            Fact::Reserved(reserved) => {
                self.runs.reserved(reserved.numbers_below);
                Ok(())
            }
            Fact::Closed(_)
            | Fact::Header(_)
            | Fact::Incident
            | Fact::KeyChanged(_)
            | Fact::Other => Ok(()),
        };
        self.complain(place, result);
        self.first = Some(self.first.map_or(record.seq, |first| first.min(record.seq)));
        self.last = self.last.max(Some(record.seq));
        self.runs.record(record);
        self.records = self.records.saturating_add(1);
        self.closed = matches!(record.fact, Fact::Closed(_));
    }

    fn complain(&mut self, place: Place, result: Result<(), String>) {
        if let Err(words) = result
            && self.complaints.len() < MAX_LISTED
        {
            self.complaints.push(Complaint { place, words });
        }
    }

    fn place_header(&mut self, seq: u64) -> Result<(), String> {
        if let Some(last) = self.last.filter(|last| seq <= *last) {
            return Err(format!("the header's number {seq} is not above {last}"));
        }
        if self.early.len() == MAX_LISTED {
            return Err("too many segments were opened without a record".to_owned());
        }
        self.early.push(seq);
        if !self.unsure {
            self.absorb();
        }
        Ok(())
    }

    fn place(&mut self, seq: u64) -> Result<(), String> {
        if self.unsure {
            let lowest = self.early.iter().copied().fold(seq, u64::min);
            self.next = self.next.max(lowest);
            self.floor = self.next;
            self.unsure = false;
            self.absorb();
        }
        if seq < self.next || self.early.contains(&seq) {
            return Err(format!(
                "number {seq} stands again or out of order: {} was expected",
                self.next
            ));
        }
        let mut from = self.next;
        let passed = self
            .early
            .iter()
            .copied()
            .take_while(|early| *early < seq)
            .count();
        for early in self.early.drain(..passed).chain([seq]) {
            if from < early {
                if self.gaps.len() == MAX_LISTED {
                    return Err(format!("too many numbers are missing before {seq}"));
                }
                self.gaps.push(from..early);
            }
            from = early.saturating_add(1);
        }
        self.next = from;
        self.absorb();
        Ok(())
    }

    /// Removes a header's number from those ahead once it is next in order.
    fn absorb(&mut self) {
        let first = self.early.partition_point(|early| *early < self.next);
        self.early.drain(..first);
        while self.early.first() == Some(&self.next) {
            self.early.remove(0);
            self.next = self.next.saturating_add(1);
        }
    }

    fn lost(&mut self, seq: u64, lost: Lost) -> Result<(), String> {
        let Lost {
            first,
            last,
            count,
            unnumbered,
        } = lost;
        if first > last || last >= seq || last.saturating_sub(first).saturating_add(1) != count {
            return Err(format!(
                "the lost numbers {first} to {last} ({count}) are no range below {seq}"
            ));
        }
        let range = first.max(self.floor)..last.saturating_add(1);
        let missing = self.fill(range.clone());
        self.lost = self.lost.saturating_add(count).saturating_add(unnumbered);
        self.lost_unnumbered = self.lost_unnumbered.saturating_add(unnumbered);
        if self.lost_ranges.len() < MAX_LISTED {
            self.lost_ranges.push([first, last]);
        }
        if missing != range.end.saturating_sub(range.start) {
            return Err(format!(
                "numbers {first} to {last} are said to be lost, but some are there or named twice"
            ));
        }
        Ok(())
    }

    fn recovered(&mut self, seq: u64, tail: Recovered) -> Result<(), String> {
        let Some(run) = self.run.filter(|run| run.segment == tail.segment) else {
            return Err(format!(
                "segment {} was not left by the process before",
                tail.segment
            ));
        };
        if tail.highest_seq >= seq {
            return Err(format!(
                "the highest number {} of the run before is not below {seq}",
                tail.highest_seq
            ));
        }
        let open = self.fill(self.run_from..tail.highest_seq.saturating_add(1));
        self.never_acknowledged = self.never_acknowledged.saturating_add(open);
        self.runs.recovered(tail, open)?;
        match run.void {
            Some((end, _)) if end != tail.void_from => Err(format!(
                "the void bytes are said to start at {}, but the header says {end}",
                tail.void_from
            )),
            Some((_, bytes)) if bytes > tail.void_bytes => Err(format!(
                "segment {} has {bytes} void bytes, but had {} when the trail was opened again",
                tail.segment, tail.void_bytes
            )),
            _ => Ok(()),
        }
    }

    /// Takes `range` out of the gaps and returns how many of its numbers were missing.
    fn fill(&mut self, range: Range<u64>) -> u64 {
        let mut filled = 0_u64;
        let mut rest = Vec::with_capacity(self.gaps.len());
        for gap in self.gaps.drain(..) {
            let from = gap.start.max(range.start);
            let to = gap.end.min(range.end);
            if from >= to {
                rest.push(gap);
                continue;
            }
            filled = filled.saturating_add(to.saturating_sub(from));
            rest.extend(
                [gap.start..from, to..gap.end]
                    .into_iter()
                    .filter(|part| !part.is_empty()),
            );
        }
        self.gaps = rest;
        filled
    }
}
