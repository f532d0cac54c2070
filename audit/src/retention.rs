//! `retention`: lists the segments that may be removed. It removes nothing.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use vram_trail::{UncheckedLine, read_unchecked};

use crate::output::{Failure, Out, tell};
use crate::record::{Record, parse_moment};

/// List the segments that may be removed at a date
///
/// Each segment's header states how long its records are to be kept, and on which basis. A segment
/// may go once that period has passed since the newest of its records. Only the oldest segments are
/// listed, without a gap, and never the last one, which the next opening of the trail needs. What is
/// left still holds from its first leaf on, and `verify` says that older segments are absent.
///
/// The paths are printed one on each line, and nothing is removed. The statements are the trail's
/// own: verify it first. Keep at least its verifier keys and one anchor of what you remove, so that
/// somebody can still say what was there.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  the list is complete, and may be empty; standard error says why it ends where it does
  2  the trail cannot be read

Examples:
  vram-audit verify /var/lib/worker/trail --key @verifier.key --anchor anchor.txt &&
      vram-audit retention /var/lib/worker/trail --at 2033-01-01")]
pub(crate) struct Args {
    /// The trail's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The date (its first moment in UTC) or RFC 3339 time at which segments would be removed
    #[arg(long, value_name = "DATE", value_parser = parse_moment)]
    at: Timestamp,
}

/// What one segment states about how long it must be kept.
struct Segment {
    number: u64,
    /// The period and its basis.
    statement: Option<(String, String)>,
    /// The time of its newest record.
    newest: Option<Timestamp>,
    readable: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut segments = read(args)?;
    let last = segments.pop();
    let mut out = Out::new();
    let mut kept = None;
    let mut next = segments.first().map_or(0, |segment| segment.number);
    for segment in &segments {
        if segment.number != next {
            kept = Some(format!(
                "{} stays: {next:06}.jsonl before it is missing or empty; verify the trail",
                segment.name()
            ));
            break;
        }
        match segment.may_go_at(args.at) {
            Ok(words) => {
                next = next.saturating_add(1);
                let path = args.dir.join(segment.name());
                out.bytes(path.as_os_str().as_bytes())?;
                out.bytes(b"\n")?;
                tell(format_args!("{} may go: {words}", segment.name()));
            }
            Err(words) => {
                kept = Some(format!("{} stays: {words}", segment.name()));
                break;
            }
        }
    }
    out.finish()?;
    let reason =
        kept.or(last.map(|last| format!("{} stays: a trail needs its last segment", last.name())));
    if let Some(reason) = reason {
        tell(reason);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Args) -> Result<Vec<Segment>, Failure> {
    let mut segments: Vec<Segment> = Vec::new();
    read_unchecked(&args.dir, &mut |number, line| {
        if segments.last().is_none_or(|last| last.number != number) {
            segments.push(Segment {
                number,
                statement: None,
                newest: None,
                readable: true,
            });
        }
        if let Some(segment) = segments.last_mut() {
            segment.see(&line);
        }
        ControlFlow::Continue(())
    })
    .map_err(|error| Failure::CouldNot(format!("{}: {error}", args.dir.display())))?;
    Ok(segments)
}

impl Segment {
    fn name(&self) -> String {
        format!("{:06}.jsonl", self.number)
    }

    fn see(&mut self, line: &UncheckedLine<'_>) {
        let record = match line {
            UncheckedLine::Checkpoint(_) => return,
            UncheckedLine::Record(line) => Record::parse(line).ok(),
            _ => None,
        };
        let Some((time, record)) = record.and_then(|record| Some((record.time()?, record))) else {
            self.readable = false;
            return;
        };
        if self.newest.is_none() {
            let statement = record.retention();
            self.statement = statement.map(|(period, basis)| (period.into(), basis.into()));
        }
        // The last time may not be the newest: a clock that was set back must not let a segment
        // expire early.
        self.newest = self.newest.max(Some(time));
    }

    /// Returns why the segment may be removed at that time, or why it stays.
    fn may_go_at(&self, at: Timestamp) -> Result<String, String> {
        if !self.readable {
            return Err("lines in it cannot be read; verify the trail".to_owned());
        }
        let (Some((period, basis)), Some(newest)) = (&self.statement, self.newest) else {
            return Err("its header does not say how long to keep it".to_owned());
        };
        let due = end_of(newest, period)
            .ok_or_else(|| format!("its period {period:?} is not one of years or months"))?;
        let words = format!("{period} after {newest}, which is {due} ({basis})");
        if due <= at { Ok(words) } else { Err(words) }
    }
}

/// Returns the end of a period of calendar years or months (ISO 8601: `P7Y`, `P6M`).
fn end_of(start: Timestamp, period: &str) -> Option<Timestamp> {
    let period = period.strip_prefix('P')?;
    let (years, months): (u16, u16) = match (period.strip_suffix('Y'), period.strip_suffix('M')) {
        (Some(years), _) => (years.parse().ok()?, 0),
        (_, Some(months)) => (0, months.parse().ok()?),
        _ => return None,
    };
    if years == 0 && months == 0 {
        return None;
    }
    let span = Span::new().try_years(years).ok()?;
    let span = span.try_months(months).ok()?;
    let end = start.to_zoned(TimeZone::UTC).checked_add(span).ok()?;
    Some(end.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_one_of_the_calendar() {
        let end =
            |start: &str, period| end_of(start.parse().unwrap(), period).map(|end| end.to_string());
        let day = "2024-02-29T12:00:00Z";
        assert_eq!(end(day, "P7Y").unwrap(), "2031-02-28T12:00:00Z");
        assert_eq!(end(day, "P6M").unwrap(), "2024-08-29T12:00:00Z");
        assert_eq!(
            end("2023-08-31T00:00:00Z", "P6M").unwrap(),
            "2024-02-29T00:00:00Z"
        );
        for wrong in [
            "P0Y", "P-1Y", "-P1Y", "P1D", "PT1M", "P65536Y", "P20000Y", "1Y", "P", "",
        ] {
            assert_eq!(end(day, wrong), None, "{wrong}");
        }
    }
}
