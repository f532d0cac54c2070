//! A report as text, for a person. It has one line for each fact, and a trail cannot write a line
//! of its own.

use std::fmt::{self, Write as _};

use super::{AnchorState, Finding, Outcome, Report, Runs};

/// Text that may quote the trail, with its control characters escaped. So the trail cannot write a
/// line of its own into a report.
struct InLine<'a>(&'a str);

impl fmt::Display for InLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", character.escape_debug())
            } else {
                f.write_char(character)
            }
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(segment) = self.segment {
            write!(f, "segment {segment:06}")?;
            if let (Some(line), Some(offset)) = (self.line, self.offset) {
                write!(f, ", line {line} (byte {offset})")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", InLine(&self.words))?;
        match self.leaves {
            Some([first, end]) if first < end => {
                write!(f, "; leaves {first} up to {end} are not vouched for")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "BROKEN",
            Self::Holds => "HOLDS",
            Self::NotChecked => "NOT CHECKED",
        })
    }
}

impl fmt::Display for AnchorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "confirmed",
            Self::Contradicts => "CONTRADICTS the trail",
            Self::Foreign => "of another trail or key",
            Self::NotComparable => "not comparable: the leaves there were not checked",
            Self::Voided => "DECLARED VOID by the trail, which contradicts it",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.outcome)?;
        for reason in &self.not_checked {
            writeln!(f, "  not checked: {}", InLine(reason))?;
        }
        for finding in &self.findings {
            writeln!(f, "  {finding}")?;
        }
        let shown = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        if self.findings_total > shown {
            writeln!(
                f,
                "  and {} more",
                self.findings_total.saturating_sub(shown)
            )?;
        }
        if let Some(origin) = &self.origin {
            writeln!(f, "trail:    {}", InLine(origin))?;
        }
        self.write_extent(f)?;
        self.write_losses(f)?;
        self.write_end(f)
    }
}

impl Report {
    fn write_extent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.first_segment {
            write!(f, "segments: {} from {first:06}", self.segments)?;
            if self.older_segments_absent {
                write!(
                    f,
                    "; OLDER SEGMENTS ARE ABSENT: checked from leaf {} on",
                    self.first_leaf
                )?;
            }
            writeln!(f)?;
        }
        for entry in &self.keys {
            if let Some([start, end]) = entry.leaves {
                let [first, last] = entry.segments;
                writeln!(
                    f,
                    "key:      {} vouches for leaves {start} up to {end}, segments {first:06} to {last:06}",
                    InLine(&entry.key)
                )?;
            }
        }
        write!(f, "records:  {} acknowledged", self.records)?;
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            write!(f, ", numbers {first} to {last}")?;
        }
        writeln!(f, "; {} leaves", self.leaves)?;
        if let (Some(first), Some(last)) = (&self.first_time, &self.last_time) {
            writeln!(f, "time:     {first} to {last}")?;
        }
        writeln!(f, "incidents: {} (SealVerificationFailed)", self.incidents)
    }

    fn write_losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.records_lost > 0 {
            write!(
                f,
                "lost:     {} records, by the trail's own account:",
                self.records_lost
            )?;
            for [first, last] in &self.lost {
                write!(f, " {first}-{last}")?;
            }
            if self.lost_unnumbered > 0 {
                write!(f, ", {} without a number", self.lost_unnumbered)?;
            }
            writeln!(f)?;
        }
        self.write_kills(f)?;
        for void in &self.void {
            writeln!(
                f,
                "void:     {} bytes ({} records) in segment {:06}, never acknowledged",
                void.bytes, void.records, void.segment
            )?;
        }
        Ok(())
    }

    fn write_kills(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Runs { closed, killed } = self.runs;
        if killed > 0 {
            writeln!(f, "runs:     {closed} closed, {killed} KILLED")?;
        }
        let listed = u64::try_from(self.kills.len()).unwrap_or(u64::MAX);
        if killed > listed {
            let earlier = killed.saturating_sub(listed);
            writeln!(f, "killed:   {earlier} earlier runs, not listed")?;
        }
        for kill in &self.kills {
            write!(f, "killed:   in segment {:06}, ", kill.segment)?;
            if let (Some(seq), Some(time)) = (kill.last_seq, &kill.last_time) {
                write!(f, "between record {seq} ({time}) and ")?;
            } else {
                f.write_str("before ")?;
            }
            write!(f, "record {} ({})", kill.next_seq, kill.next_time)?;
            if let Some(records) = kill.records_at_most {
                write!(f, ": at most {records} numbered records are missing")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tail) = self.tail {
            writeln!(
                f,
                "tail:     {} bytes ({} records) behind the last checkpoint are not acknowledged; \
                 torn or altered: only an anchor can tell",
                tail.bytes, tail.records
            )?;
        }
        for anchor in &self.anchors {
            writeln!(f, "anchor:   at {} leaves: {}", anchor.size, anchor.state)?;
            if let Some(segment) = anchor.voided_by {
                writeln!(
                    f,
                    "          segment {segment:06} says that this checkpoint was signed and never \
                     acknowledged, as after a failed write or a crash. A worker hands out no such \
                     checkpoint: if the anchor has it from the worker, its log, a receipt or \
                     `vram-audit anchor`, acknowledged records are gone. Then the holder of the key \
                     has replaced them, or a process with access to the disk has damaged them or put \
                     their segment aside before the trail was opened again. Ask where it comes from"
                )?;
            }
        }
        writeln!(
            f,
            "end:      {}, {}",
            if self.closed {
                "closed properly"
            } else {
                "NOT closed properly"
            },
            if self.end_vouched_for {
                "vouched for by an anchor"
            } else {
                "NOT VOUCHED FOR: without an anchor of the last checkpoint nobody can tell \
                 whether the end was cut off"
            }
        )
    }
}
