//! `anchor --from-log`: finds checkpoints in the logs that a collector has kept.
//!
//! A worker logs checkpoints (target `vram_residency::checkpoint`), so a kept log is an anchor.
//! This module finds them again, whatever was put around them. It skips lines without a checkpoint,
//! and reports a checkpoint that was cut.

mod assembly;
mod wrapping;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sha2::{Digest as _, Sha256};
use vram_trail::{Checkpoint, VerifierKey};

use crate::output::{Failure, Out, tell};
use assembly::{Assembly, At, Found};
use wrapping::{Content, Unwrapper};

/// The longest line that is searched.
const MAX_LINE_BYTES: usize = 4 << 20;

/// The most lines about single checkpoints, and the most origins, that are reported.
const MAX_TOLD: u64 = 32;
const MAX_ORIGINS: usize = 1024;

/// The criteria of the search.
pub(crate) struct Search<'a> {
    pub(crate) files: &'a [PathBuf],
    pub(crate) origins: &'a [String],
    /// Without a key, every signature is accepted.
    pub(crate) keys: Vec<VerifierKey>,
}

/// The findings so far.
struct Findings<'a> {
    search: &'a Search<'a>,
    out: Out,
    printed: HashSet<[u8; 32]>,
    origins: BTreeSet<String>,
    /// Cut, or not signed by the key whose name they have.
    wrong: u64,
    /// Checkpoints of trails that were not requested.
    others: u64,
}

impl Search<'_> {
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        let mut findings = Findings {
            search: self,
            out: Out::new(),
            printed: HashSet::new(),
            origins: BTreeSet::new(),
            wrong: 0,
            others: 0,
        };
        // The files are read in order: where a log was rotated, a checkpoint may begin in one file
        // and end in the next.
        let (mut unwrapper, mut assembly) = (Unwrapper::default(), Assembly::default());
        let mut found = Vec::new();
        let mut name = String::new();
        for path in self.files {
            name = if path.as_os_str() == "-" {
                "standard input".to_owned()
            } else {
                path.display().to_string()
            };
            let mut number = 0_u64;
            each_line(path, &mut |line| {
                number = number.saturating_add(1);
                let Some(line) = line else {
                    tell(format_args!(
                        "{name}, line {number}: longer than 4 MiB, and passed over"
                    ));
                    return Ok(());
                };
                unwrapper.line(line, &mut |stream, content| {
                    take(&mut assembly, stream, number, content, &mut found);
                });
                findings.take(&name, &mut found)
            })
            .map_err(|failure| match failure {
                Failure::CouldNot(words) => Failure::CouldNot(format!("{name}: {words}")),
                other => other,
            })?;
        }
        unwrapper.end(&mut |stream, content| {
            take(&mut assembly, stream, 0, content, &mut found);
        });
        assembly.end(&mut found);
        findings.take(&name, &mut found)?;
        findings.finish()
    }
}

fn take(
    assembly: &mut Assembly,
    stream: &str,
    number: u64,
    content: Content<'_>,
    found: &mut Vec<At>,
) {
    match content {
        Content::Field(value) => {
            found.extend(Assembly::field(value).map(|field| (number, field)));
        }
        Content::Line(line) => assembly.line(stream, number, line, found),
    }
}

impl Findings<'_> {
    fn take(&mut self, file: &str, found: &mut Vec<At>) -> Result<(), Failure> {
        for (line, found) in found.drain(..) {
            match found {
                Found::Cut(why) => self.wrong(file, line, &format!("a checkpoint is cut: {why}")),
                Found::Whole(checkpoint) => self.whole(file, line, &checkpoint)?,
            }
        }
        Ok(())
    }

    fn whole(&mut self, file: &str, line: u64, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let (search, origin) = (self.search, checkpoint.origin());
        let is_named = |key: &VerifierKey| key.name() == origin;
        let is_asked_for = (search.origins.is_empty()
            || search.origins.iter().any(|asked| asked == origin))
            && (search.keys.is_empty() || search.keys.iter().any(is_named));
        if !is_asked_for {
            self.others = self.others.saturating_add(1);
            return Ok(());
        }
        if !search.keys.is_empty() && !checkpoint.is_signed_by_one_of(&search.keys) {
            self.wrong(
                file,
                line,
                &format!("a checkpoint of {origin} is not signed by a given key"),
            );
            return Ok(());
        }
        if self.origins.len() < MAX_ORIGINS && !self.origins.contains(origin) {
            self.origins.insert(origin.to_owned());
        }
        let text = checkpoint.to_string();
        if self.printed.insert(Sha256::digest(&text).into()) {
            self.out.bytes(text.as_bytes())?;
        }
        Ok(())
    }

    fn wrong(&mut self, file: &str, line: u64, words: &str) {
        self.wrong = self.wrong.saturating_add(1);
        if self.wrong <= MAX_TOLD {
            tell(format_args!("{file}, line {line}: {words}"));
        }
    }

    fn finish(mut self) -> Result<ExitCode, Failure> {
        self.out.flush()?;
        if self.wrong > MAX_TOLD {
            tell(format_args!(
                "{} more are cut or not signed by a given key",
                self.wrong.saturating_sub(MAX_TOLD)
            ));
        }
        if self.others > 0 {
            tell(format_args!(
                "{} checkpoint(s) of other trails were passed over",
                self.others
            ));
        }
        if self.origins.len() > 1 {
            tell(format_args!(
                "checkpoints of {} trails were found; --key and --origin choose",
                self.origins.len()
            ));
            for origin in self.origins.iter().take(8) {
                tell(format_args!("  {origin}"));
            }
        }
        if !self.printed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let words = "no checkpoint was found that is whole";
        Err(if self.wrong > 0 {
            Failure::Wrong(words.to_owned())
        } else {
            Failure::CouldNot(format!("{words} and was asked for"))
        })
    }
}

/// Calls `visit` with each line of a file or of standard input, or with `None` if it is too long.
fn each_line(
    path: &Path,
    visit: &mut dyn FnMut(Option<&str>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let could_not = |error: io::Error| Failure::CouldNot(error.to_string());
    let mut source: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(could_not)?))
    };
    let mut line = Vec::new();
    let mut is_rest = false;
    loop {
        line.clear();
        let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
        let mut part = source.by_ref().take(limit);
        if part.read_until(b'\n', &mut line).map_err(could_not)? == 0 {
            return Ok(());
        }
        let is_whole = line.last() == Some(&b'\n') || line.len() < MAX_LINE_BYTES;
        if is_whole && !is_rest {
            let text = String::from_utf8_lossy(&line);
            visit(Some(text.trim_end_matches(['\n', '\r'])))?;
        } else if !is_rest {
            visit(None)?;
        }
        is_rest = !is_whole;
    }
}
