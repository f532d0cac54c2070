//! `verify`: reports whether a trail holds, and what that answer does not cover.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use vram_trail::{
    Accepted, Checkpoint, Missing, NoteError, Outcome, Proof, ProofError, Report, UnanchoredEnd,
    Verdict, verify_with_progress,
};

use crate::keys::TrustedKeys;
use crate::output::{Colour, Failure, Out, progress_bar, tell, with_causes};

/// The most bytes of anchors, in all files together, since they are kept in memory.
const MAX_ANCHOR_BYTES: u64 = 512 << 20;

/// The most bytes in a line of an anchor's file. A log may have much around a checkpoint.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// The version of the JSON form. New fields keep the number; a removed field or a changed meaning
/// raises it.
const SCHEMA_VERSION: u32 = 1;

/// The exit status if --fail-on-incident is given and the trail holds incidents.
const INCIDENT: u8 = 4;

/// The beginning of the first line of a proof.
const PROOF: &str = "c2sp.org/tlog-proof@";

/// Check a whole trail
///
/// Reads every segment once, in constant memory: each checkpoint must be signed by a given key and
/// match the records before it, segments must fit together, and no number may be missing without a
/// reason. It does not stop at the first bad line.
///
/// What a trail cannot show by itself is whether its end was cut off: for that, a checkpoint must
/// have been kept where the worker cannot rewrite it, an anchor.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  the trail holds, was closed, no run of it was killed (but for --accept-kills-before), nothing
     is lost, and an anchor vouches for its end (or --accept-unanchored-end was given)
  1  the trail is broken: something contradicts the checkpoints, the anchors or the numbers
  2  the trail could not be checked: bad arguments, files that cannot be read, no key that fits
  3  what is there holds, and something is missing: the end is not vouched for, the trail was not
     closed, a run was killed, the tail is not acknowledged, records are lost, or older segments
     are absent
  4  with --fail-on-incident: what is there holds, and failed verifications are on record in it
  If several apply, 1 goes before 2, then 4, then 3.

The first line says the same: SOUND for 0, BROKEN for 1, NOT CHECKED for 2, and for 3 HOLDS, BUT: with
what is missing. Incidents (records of SealVerificationFailed) are counted there, too, whatever the
status: a trail that holds shows that nobody has changed what it says, and not that it says good news.

Anchor files hold one or more checkpoints: as text, as `vram-audit anchor` prints them, or on lines
of JSON with the text in the field `checkpoint`, as they stand in a trail or in a collected log
(there also inside the field `fields`), or in proofs, as `vram-audit prove` prints them. What others
have signed, too, such as a witness, is taken as well. Empty lines are skipped; anything else is
refused (`vram-audit anchor --from-log` finds checkpoints in a log). All of them together may have
512 MiB: a checkpoint a minute for three years. All of them are compared, and all are worth giving:
the newest alone cannot contradict somebody who has the trail's key and made the trail longer.

With --json, `schema_version` is 1: fields may be added, and none goes away or changes its meaning
under this number. A key or an anchor file that cannot be used is an object, too: with
`schema_version`, `verdict`, `exit_status`, `missing`, `outcome`, and the reason in `not_checked`, and
with nothing else. Wrong arguments have no object.

Examples:
  vram-audit verify /var/lib/worker/trail --key @verifier.key --anchor anchor.txt
  vram-audit verify trail --key @verifier.key --accept-unanchored-end --json | jq .verdict")]
pub(crate) struct Args {
    /// The trail's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    keys: TrustedKeys,
    /// A file of checkpoints that were kept where the worker cannot rewrite them; may be given
    /// several times
    #[arg(long = "anchor", value_name = "FILE")]
    anchors: Vec<PathBuf>,
    /// Do without an anchor of the last checkpoint: whoever could write to the trail may then have
    /// cut off its end, and this answer does not say so by its exit status
    #[arg(long)]
    accept_unanchored_end: bool,
    /// Do without what killed runs had queued, if the `TrailOpened` behind them has a number below SEQ:
    /// somebody has looked into them. They are listed all the same
    #[arg(long, value_name = "SEQ")]
    accept_kills_before: Option<u64>,
    /// End with status 4 if the trail holds, complete or not, and a failed verification is on record
    #[arg(long)]
    fail_on_incident: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// The report and the resulting answer.
#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    verdict: Verdict,
    exit_status: u8,
    missing: &'a [Missing],
    #[serde(flatten)]
    report: &'a Report,
}

/// The answer if there is no report.
#[derive(Serialize)]
struct NoAnswer<'a> {
    schema_version: u32,
    verdict: Verdict,
    exit_status: u8,
    missing: [Missing; 0],
    outcome: Outcome,
    not_checked: [&'a str; 1],
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let ended = check(args);
    if let (true, Err(Failure::CouldNot(words))) = (args.json, &ended) {
        // If it cannot be printed, the reason is still printed on standard error, and the status is
        // still 2.
        let _unheard = print_json(&NoAnswer {
            schema_version: SCHEMA_VERSION,
            verdict: Verdict::NotChecked,
            exit_status: Verdict::NotChecked.exit_code(),
            missing: [],
            outcome: Outcome::NotChecked,
            not_checked: [words],
        });
    }
    ended
}

fn check(args: &Args) -> Result<ExitCode, Failure> {
    let keys = args.keys.read()?;
    let mut anchors = Vec::new();
    let mut room = MAX_ANCHOR_BYTES;
    let mut unread = None;
    for path in &args.anchors {
        // A broken trail takes precedence over an unreadable file, so the trail is checked in any
        // case.
        if let Err(failure) = read_anchors(path, &mut anchors, &mut room) {
            unread.get_or_insert(failure);
        }
    }
    let bar = progress_bar(0, "verify".to_owned());
    let report = verify_with_progress(&args.dir, &keys, &anchors, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let end = if args.accept_unanchored_end {
        UnanchoredEnd::Accepted
    } else {
        UnanchoredEnd::Refused
    };
    let accepted = Accepted::from(end).kills_before(args.accept_kills_before.unwrap_or(0));
    let (verdict, missing) = (report.verdict(accepted), report.missing(accepted));
    match unread {
        Some(Failure::CouldNot(words)) if verdict == Verdict::Broken => tell(words),
        Some(failure) => return Err(failure),
        None => {}
    }
    let holds = matches!(verdict, Verdict::Sound | Verdict::Lacking);
    let answer = Answer {
        schema_version: SCHEMA_VERSION,
        verdict,
        exit_status: if args.fail_on_incident && holds && report.incidents > 0 {
            INCIDENT
        } else {
            verdict.exit_code()
        },
        missing: &missing,
        report: &report,
    };
    let told = if args.json {
        print_json(&answer)
    } else {
        print(&answer)
    };
    // A closed output does not change the result.
    let mut code = answer.exit_status;
    if let Err(Failure::CouldNot(words)) = told {
        tell(words);
        code = if code == 1 { 1 } else { 2 };
    }
    Ok(ExitCode::from(code))
}

fn print_json(answer: &impl Serialize) -> Result<(), Failure> {
    let mut json = serde_json::to_vec(answer)
        .map_err(|error| Failure::CouldNot(format!("the report cannot be written: {error}")))?;
    json.push(b'\n');
    let mut out = Out::new();
    out.bytes(&json)?;
    Ok(out.finish()?)
}

fn print(answer: &Answer<'_>) -> Result<(), Failure> {
    let colour = match answer.verdict {
        Verdict::Sound if answer.report.incidents == 0 => Colour::Good,
        Verdict::Sound | Verdict::Lacking => Colour::Warning,
        _ => Colour::Bad,
    };
    let text = answer.report.to_string();
    let (_, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let mut out = Out::new();
    out.coloured(colour, first_line(answer))?;
    out.end_line()?;
    for line in rest.lines() {
        out.text(line)?;
        out.end_line()?;
    }
    for missing in answer.missing {
        out.coloured(Colour::Warning, format_args!("missing:  {missing}"))?;
        out.end_line()?;
    }
    Ok(out.finish()?)
}

/// Returns the result in one line.
fn first_line(answer: &Answer<'_>) -> String {
    let mut line = match answer.verdict {
        Verdict::Sound => "SOUND".to_owned(),
        _ => answer.report.outcome.to_string(),
    };
    match answer.report.incidents {
        0 => {}
        1 => line.push_str(", WITH 1 INCIDENT"),
        count => line.push_str(&format!(", WITH {count} INCIDENTS")),
    }
    let missing: Vec<String> = answer.missing.iter().map(Missing::to_string).collect();
    if answer.verdict == Verdict::Lacking {
        line.push_str(", BUT: ");
        line.push_str(&missing.join("; "));
    }
    line
}

/// Adds the checkpoints in a file. Refuses other content, since a silently skipped anchor would
/// vouch for nothing. `room` is the number of bytes allowed, and afterwards the number left.
fn read_anchors(path: &Path, anchors: &mut Vec<Checkpoint>, room: &mut u64) -> Result<(), Failure> {
    let file = File::open(path)
        .map_err(|error| Failure::CouldNot(format!("{}: {error}", path.display())))?;
    let mut source = Lines {
        source: BufReader::new(file),
        room,
        number: 0,
        trouble: None,
    };
    let before = anchors.len();
    let read = read_lines(path, source.by_ref().peekable(), anchors);
    // The text behind such a line was not read, so this error comes first.
    if let Some(words) = source.trouble {
        let (path, line) = (path.display(), source.number);
        return Err(Failure::CouldNot(format!("{path}, line {line}: {words}")));
    }
    read?;
    if anchors.len() == before {
        let path = path.display();
        return Err(Failure::CouldNot(format!(
            "{path}: the file holds no checkpoint"
        )));
    }
    Ok(())
}

/// Reads the lines of a file, with their numbers and newlines, one at a time, since the file may be
/// long.
struct Lines<'a> {
    source: BufReader<File>,
    /// The number of bytes still allowed.
    room: &'a mut u64,
    number: usize,
    /// The reason why there are no more lines.
    trouble: Option<String>,
}

impl Iterator for Lines<'_> {
    type Item = (usize, String);

    fn next(&mut self) -> Option<Self::Item> {
        if self.trouble.is_some() {
            return None;
        }
        self.number = self.number.saturating_add(1);
        let mut line = Vec::new();
        let mut rest = self.source.by_ref().take(MAX_LINE_BYTES.saturating_add(1));
        let length = match rest.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(length) => u64::try_from(length).unwrap_or(u64::MAX),
            Err(error) => {
                self.trouble = Some(error.to_string());
                return None;
            }
        };
        if length > MAX_LINE_BYTES {
            self.trouble = Some(format!("it has more than {MAX_LINE_BYTES} bytes"));
            return None;
        }
        let Some(left) = self.room.checked_sub(length) else {
            self.trouble = Some(format!(
                "with this there are more than {MAX_ANCHOR_BYTES} bytes of anchors: give a part of \
                 them at a time, each with the newest"
            ));
            return None;
        };
        *self.room = left;
        match String::from_utf8(line) {
            Ok(line) => Some((self.number, line)),
            Err(_) => {
                self.trouble = Some("it is not text in UTF-8".to_owned());
                None
            }
        }
    }
}

fn read_lines(
    path: &Path,
    mut lines: Peekable<impl Iterator<Item = (usize, String)>>,
    anchors: &mut Vec<Checkpoint>,
) -> Result<(), Failure> {
    let before = anchors.len();
    let wrong = |line: usize, words: &str| {
        Failure::CouldNot(format!("{}, line {line}: {words}", path.display()))
    };
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let mut note = if line.starts_with('{') {
            match from_json(&line) {
                Some(note) => note,
                None if is_torn(&line) && anchors.len() > before => {
                    let path = path.display();
                    tell(format!(
                        "{path}, line {number}: the last line is torn and was passed over; an anchor \
                         that was stopped while it wrote leaves that"
                    ));
                    break;
                }
                None => return Err(wrong(number, "there is no field `checkpoint`")),
            }
        } else {
            line.clone()
        };
        let is_proof = line.starts_with(PROOF);
        if is_proof {
            while let Some((_, more)) =
                lines.next_if(|_| !note.ends_with("\n\n") && is_short(&note))
            {
                note.push_str(&more);
            }
        }
        if !line.starts_with('{') {
            let mut signed = false;
            while let Some((_, more)) =
                lines.next_if(|(_, next)| (!signed || next.starts_with('—')) && is_short(&note))
            {
                signed |= more.starts_with('—');
                note.push_str(&more);
            }
        }
        if note.contains("\r\n") {
            let words = "the lines end in CR LF, which no checkpoint's do: keep it as it was \
                         printed, or remove each CR (`tr -d '\\r'`)";
            return Err(wrong(number, words));
        }
        let checkpoint = if is_proof {
            from_proof(&note).map_err(|words| wrong(number, &words))?
        } else {
            note.parse()
                .map_err(|error: NoteError| wrong(number, &error.to_string()))?
        };
        anchors.push(checkpoint);
    }
    Ok(())
}

/// Returns whether a text may go on. A longer one is no checkpoint, and need not be kept.
fn is_short(note: &str) -> bool {
    u64::try_from(note.len()).is_ok_and(|length| length <= MAX_LINE_BYTES)
}

/// Returns whether a crash can have left this of an unacknowledged last line in an anchor's file.
fn is_torn(line: &str) -> bool {
    line.starts_with("{\"checkpoint\":") && !line.ends_with('\n')
}

/// Returns the checkpoint in a proof whose record leads to it. Its signature is not checked here.
fn from_proof(text: &str) -> Result<Checkpoint, String> {
    let proof: Proof = text
        .parse()
        .map_err(|error: ProofError| with_causes(&error))?;
    if proof.is_included() {
        Ok(proof.checkpoint().clone())
    } else {
        Err(ProofError::NotIncluded.to_string())
    }
}

/// Returns the checkpoint in a line of a trail, or of a log that `tracing-subscriber` wrote as
/// JSON. Skips the rest of the line.
fn from_json(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        checkpoint: Option<String>,
        fields: Option<Fields>,
    }
    #[derive(Deserialize)]
    struct Fields {
        checkpoint: Option<String>,
    }
    let line: Line = serde_json::from_str(line).ok()?;
    line.checkpoint.or_else(|| line.fields?.checkpoint)
}
