//! `inspect`: explains one line of a trail.
//!
//! It knows the names of events and fields, and what they mean. It verifies nothing.

pub(crate) mod words;

use std::io::{self, BufRead as _, Read as _};
use std::process::ExitCode;

use serde_json::Value;
use vram_trail::Checkpoint;

use crate::output::{Colour, Failure, Out, tell};
use crate::record::Record;

/// The most bytes in a line. A trail has no longer one.
const MAX_LINE_BYTES: u64 = 65_535;

/// The most characters that are shown of one value.
const MAX_VALUE: usize = 200;

/// Explain a line of a trail
///
/// Says in words what a record or a checkpoint line holds: each field with its value, its meaning,
/// its unit, and who says so. Nothing is verified.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  every line was explained
  1  a line is neither record nor checkpoint
  2  standard input cannot be read

Examples:
  vram-audit inspect \"$(tail -n 1 trail/000000.jsonl)\"
  vram-audit show trail --severity CRITICAL --json | vram-audit inspect -
  vram-audit check-proof record-17.tlog-proof --key @verifier.key | vram-audit inspect -")]
pub(crate) struct Args {
    /// The line, or - to read lines from standard input
    #[arg(value_name = "LINE", allow_hyphen_values = true)]
    line: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    if args.line != "-" {
        explain(args.line.trim_end().as_bytes(), &mut out)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut input = io::stdin().lock();
    let (mut line, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for number in 1u64.. {
        line.clear();
        let limit = MAX_LINE_BYTES.saturating_add(2);
        let read = (&mut input).take(limit).read_until(b'\n', &mut line);
        let read = read.map_err(|error| {
            Failure::CouldNot(format!("standard input cannot be read: {error}"))
        })?;
        if read == 0 {
            break;
        }
        if number > 1 {
            out.end_line()?;
        }
        match explain(line.trim_ascii_end(), &mut out) {
            Err(Failure::Wrong(words)) => {
                tell(format_args!("line {number}: {words}"));
                code = ExitCode::from(1);
            }
            other => other?,
        }
        if line.last() != Some(&b'\n') {
            input.skip_until(b'\n').map_err(|error| {
                Failure::CouldNot(format!("standard input cannot be read: {error}"))
            })?;
        }
    }
    out.finish()?;
    Ok(code)
}

fn explain(line: &[u8], out: &mut Out) -> Result<(), Failure> {
    let neither =
        || Failure::Wrong("the line is neither a record nor a checkpoint of a trail".to_owned());
    if u64::try_from(line.len()).unwrap_or(u64::MAX) > MAX_LINE_BYTES {
        return Err(neither());
    }
    let record = Record::parse(line).map_err(|_| neither())?;
    let is_checkpoint = record.fields.len() == 1 && !record.text("checkpoint").is_empty();
    if is_checkpoint {
        let checkpoint = record.text("checkpoint").parse().map_err(|_| neither())?;
        return Ok(explain_checkpoint(&checkpoint, out)?);
    }
    if record.number("seq").is_none() || record.text("event").is_empty() {
        return Err(neither());
    }
    Ok(explain_record(&record, out)?)
}

fn explain_checkpoint(checkpoint: &Checkpoint, out: &mut Out) -> io::Result<()> {
    out.coloured(Colour::Good, "checkpoint")?;
    out.end_line()?;
    out.text("The worker's key vouches for all records up to here.")?;
    out.end_line()?;
    let size = checkpoint.size().to_string();
    for (name, value, meaning) in [
        ("origin", checkpoint.origin(), words::ORIGIN),
        ("size", &size, "number of leaves (records) it covers"),
        (
            "root",
            &hex(&checkpoint.root()),
            "root of the Merkle tree over them (RFC 6962, SHA-256), hexadecimal",
        ),
        (
            "signature",
            &hex(&checkpoint.signature()),
            "Ed25519 over the first three lines of its text, hexadecimal; not verified here",
        ),
    ] {
        field(name, value, meaning, out)?;
    }
    Ok(())
}

fn explain_record(record: &Record, out: &mut Out) -> io::Result<()> {
    let event = record.text("event");
    let colour = match record.text("severity") {
        "CRITICAL" => Colour::Bad,
        "WARN" => Colour::Warning,
        _ => Colour::Good,
    };
    out.coloured(colour, event)?;
    out.end_line()?;
    out.text(words::event(event))?;
    out.end_line()?;
    for (name, value) in &record.fields {
        let shown = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        field(name, &shown, words::field(event, name), out)?;
    }
    Ok(())
}

fn field(name: &str, value: &str, meaning: &str, out: &mut Out) -> io::Result<()> {
    let mut shown: String = value.chars().take(MAX_VALUE).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    out.text(format_args!("  {name} = {shown}"))?;
    out.end_line()?;
    out.coloured(Colour::Dim, format_args!("      {meaning}"))?;
    out.end_line()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
