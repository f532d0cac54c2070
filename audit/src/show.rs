//! `show`: the records of a trail, for people and for pipes.

mod wanted;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;
use vram_trail::{UncheckedLine, read_unchecked};

use crate::explain::words::event_names;
use crate::output::{Colour, Failure, Out, tell};
use crate::record::{Record, parse_moment};
use wanted::Wanted;

/// The most characters that are shown of one value. `--json` shows all.
const MAX_VALUE: usize = 120;

/// Fields that have a column of their own, or that are of little use to people.
const NOT_REPEATED: [&str; 9] = [
    "seq", "time", "mono_us", "boot", "worker", "event", "severity", "outcome", "shard",
];

/// Show the records of a trail
///
/// Prints one line for each record: time, number, severity, event, shard, and the event's own fields.
/// Conditions can be combined; what meets all of them is shown. Void copies of records that were
/// written again in a later segment are left out.
///
/// Showing is not verifying: nothing is compared with any signature here. Run `vram-audit verify`
/// before you rely on what you see.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  everything was shown
  1  there are lines that are neither record nor checkpoint, but for a torn end: verify the trail; or
     records of format 1 that cannot be shown, whatever the conditions: their lines are named
  2  the trail cannot be read, or something was asked for that it does not know: a shard or a worker
     that no record is about, or an event that neither occurs in it nor is known to this version.
     That is told when the whole trail was read; what the other conditions ask for was shown
  If several apply, 1 goes before 2.

Examples:
  vram-audit show /var/lib/worker/trail --severity WARN
  vram-audit show /var/lib/worker/trail --event SealVerificationFailed --shard llama-8b
  vram-audit show /var/lib/worker/trail --since 2026-11-01 --until 2026-12-01 --json | jq .digest")]
pub(crate) struct Args {
    /// The trail's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only what happened at this time or later: a date (in UTC) or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Only what happened before this time: a date (its first moment in UTC) or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<Timestamp>,
    /// Only records about this shard; may be given several times
    #[arg(long, value_name = "ID")]
    shard: Vec<String>,
    /// Only records of this worker; may be given several times
    #[arg(long, value_name = "ID")]
    worker: Vec<String>,
    /// Only these events, such as SealVerificationFailed; may be given several times
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    /// Only records of this severity or a higher one
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true)]
    severity: Option<Severity>,
    /// Print the records' exact lines (JSON), with which their leaves can be computed
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Severity {
    Info,
    Warn,
    Critical,
}

/// The counts for the closing messages.
#[derive(Default)]
struct Seen {
    /// Records since the last checkpoint.
    unacknowledged: u64,
    /// Lines that are no records, since the last checkpoint or segment.
    unreadable_behind: u64,
    /// Lines that are no records, before a checkpoint.
    unreadable: u64,
    /// Records that could not be shown, or could not be compared with the conditions.
    not_shown: u64,
    /// The current segment, and the number of its lines read so far.
    segment: u64,
    lines: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    tell("showing is not verifying: run `vram-audit verify` before you rely on this");
    let mut out = Out::new();
    let mut written = Ok(());
    let mut seen = Seen::default();
    let mut names = Names::new(args);
    read_unchecked(&args.dir, &mut |segment, line| {
        seen.count(segment);
        match line {
            UncheckedLine::Checkpoint(_) => {
                seen.unacknowledged = 0;
                seen.unreadable = seen.unreadable.saturating_add(seen.unreadable_behind);
                seen.unreadable_behind = 0;
            }
            UncheckedLine::Record(line) => {
                seen.unacknowledged = seen.unacknowledged.saturating_add(1);
                written = show(args, line, &mut names, &mut seen, &mut out);
            }
            _ => seen.unreadable_behind = seen.unreadable_behind.saturating_add(1),
        }
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
    .map_err(|error| Failure::CouldNot(format!("{}: {error}", args.dir.display())))?;
    written?;
    out.finish()?;
    if seen.unacknowledged > 0 {
        tell(format_args!(
            "no checkpoint acknowledges the last {} record(s)",
            seen.unacknowledged
        ));
    }
    let mut complaints: Vec<String> = names.complaints().collect();
    let last = complaints.pop();
    complaints.into_iter().for_each(tell);
    if seen.unreadable > 0 {
        last.into_iter().for_each(tell);
        return Err(Failure::Wrong(format!(
            "{} line(s) are neither record nor checkpoint: verify the trail",
            seen.unreadable
        )));
    }
    if seen.not_shown > 0 {
        last.into_iter().for_each(tell);
        return Err(Failure::Wrong(format!(
            "{} record(s) could not be shown, or not be compared with the conditions: see above",
            seen.not_shown
        )));
    }
    last.map_or(Ok(ExitCode::SUCCESS), |words| Err(Failure::CouldNot(words)))
}

impl Seen {
    fn count(&mut self, segment: u64) {
        if self.segment != segment {
            self.lines = 0;
        }
        self.segment = segment;
        self.lines = self.lines.saturating_add(1);
    }

    /// Counts a record that cannot be shown, so that it is not hidden when the JSON reader fails.
    fn not_shown(&mut self, words: impl fmt::Display) {
        self.not_shown = self.not_shown.saturating_add(1);
        tell(format_args!(
            "line {} of segment {:06} {words}",
            self.lines, self.segment
        ));
    }
}

fn show(
    args: &Args,
    line: &[u8],
    names: &mut Names,
    seen: &mut Seen,
    out: &mut Out,
) -> io::Result<()> {
    let record = match Record::parse(line) {
        Ok(record) if names.take(&record) && args.wants(&record) => record,
        Ok(_) => return Ok(()),
        Err(error) => {
            seen.not_shown(format_args!("cannot be shown: {error}"));
            return Ok(());
        }
    };
    if (args.since.is_some() || args.until.is_some()) && record.written_time().is_none() {
        seen.not_shown("has a time that there is not, and is shown whatever the time asked for");
    }
    if args.json {
        out.bytes(line)?;
        return out.bytes(b"\n");
    }
    let severity = record.text("severity");
    let colour = match severity {
        "CRITICAL" => Colour::Bad,
        "WARN" => Colour::Warning,
        _ => Colour::Plain,
    };
    let seq = record.number("seq").unwrap_or_default();
    out.coloured(Colour::Dim, record.text("time"))?;
    out.text(format_args!(" {seq:>6} "))?;
    out.coloured(colour, format_args!("{severity:<8}"))?;
    out.text(format_args!(" {}", record.text("event")))?;
    let shard = record.text("shard");
    if !shard.is_empty() {
        out.text(format_args!(" {}", value(&Value::from(shard))))?;
    }
    for (name, field) in &record.fields {
        // For most events the author is obvious.
        let is_plain = name == "by" && record.text("event") != "PolicyViolation";
        if !is_plain && !NOT_REPEATED.contains(&name.as_str()) {
            out.coloured(
                Colour::Dim,
                format_args!(" {}=", value(&Value::from(name.as_str()))),
            )?;
            out.text(value(field))?;
        }
    }
    out.end_line()
}

/// The requested names.
struct Names {
    events: Wanted,
    shards: Wanted,
    workers: Wanted,
}

impl Names {
    fn new(args: &Args) -> Self {
        let none = "this version knows no event, and there is none in this trail, of the name";
        Self {
            events: Wanted::new(none, &args.event, event_names()),
            shards: Wanted::new(
                "no record in this trail is about the shard",
                &args.shard,
                std::iter::empty(),
            ),
            workers: Wanted::new(
                "no record in this trail is by the worker",
                &args.worker,
                std::iter::empty(),
            ),
        }
    }

    /// Returns whether all of a record's names are requested. Checks all of them in any case.
    fn take(&mut self, record: &Record) -> bool {
        let event = self.events.takes(record.text("event"));
        // In format 1 a name may stand twice.
        let mut shard = false;
        for text in record.texts("shard") {
            shard |= self.shards.takes(text);
        }
        let worker = self.workers.takes(record.text("worker"));
        event && shard && worker
    }

    fn complaints(&self) -> impl Iterator<Item = String> {
        let names = self.events.complaints().chain(self.shards.complaints());
        names.chain(self.workers.complaints())
    }
}

impl Args {
    fn wants(&self, record: &Record) -> bool {
        let time = record.written_time();
        let text = |moment: Timestamp| format!("{moment:.9}");
        let severity = Severity::from_str(record.text("severity"), true).ok();
        self.since
            .is_none_or(|since| time.is_none_or(|time| *time >= *text(since)))
            && self
                .until
                .is_none_or(|until| time.is_none_or(|time| *time < *text(until)))
            && self.severity <= severity
    }
}

/// Formats a value, or the name of a field, as one word if it is one, otherwise as JSON.
fn value(value: &Value) -> String {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| !c.is_whitespace() && !c.is_control() && c != '"')
    };
    let text = match value {
        Value::String(text) if plain(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() > MAX_VALUE {
        let mut short: String = text.chars().take(MAX_VALUE).collect();
        short.push('…');
        return short;
    }
    text
}
