//! Assembles checkpoints from lines: a note has five, and a log breaks it at each newline.
//!
//! It skips lines of other shapes between them, since other writers of the same stream may add
//! them. It also accepts a missing empty line, which journald leaves out. This module knows the
//! shape of a note, and no wrapping.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vram_trail::Checkpoint;

/// The beginning of every origin of a trail.
const ORIGIN: &str = "vram-residency/";

/// The most foreign lines between two lines of a note.
const MAX_BETWEEN: u32 = 32;

/// The most notes that are begun at the same time.
const MAX_STREAMS: usize = 256;

/// The most signature lines of a note.
const MAX_SIGNATURES: usize = 101;

/// A finding in a log.
pub(super) enum Found {
    /// Text that looks like a checkpoint and is none, with the reason.
    Cut(String),
    /// A checkpoint in its form, with a signature under its origin's name.
    Whole(Checkpoint),
}

/// A finding, with the line at which it begins.
pub(super) type At = (u64, Found);

#[derive(Default)]
pub(super) struct Assembly {
    notes: HashMap<String, Note>,
}

/// A note that was begun.
struct Note {
    line: u64,
    /// The field's name marks it as a checkpoint, even if nothing else of it follows.
    is_named: bool,
    origin: String,
    size: Option<String>,
    root: Option<String>,
    signatures: Vec<String>,
    between: u32,
}

impl Assembly {
    /// Takes the value of a field for checkpoints, of any trail.
    pub(super) fn field(value: &str) -> Option<Found> {
        if !value.starts_with(ORIGIN) {
            return None;
        }
        // Some collectors cut the newline off the end of a field.
        let end = if value.ends_with('\n') { "" } else { "\n" };
        Some(parse(&format!("{value}{end}")))
    }

    /// Takes a line.
    pub(super) fn line(&mut self, stream: &str, number: u64, line: &str, found: &mut Vec<At>) {
        let line = line.trim_end();
        if !line.contains(ORIGIN) || !line.contains("\\n") {
            return self.plain(stream, number, line, found);
        }
        // The whole note on one line, its newlines escaped.
        let line = line.replace("\\u2014", "—").replace("\\u{2014}", "—");
        for part in line.split("\\n") {
            self.plain(stream, number, part.trim_end(), found);
        }
        self.finish(stream, found);
    }

    fn plain(&mut self, stream: &str, number: u64, line: &str, found: &mut Vec<At>) {
        if let Some((origin, is_named)) = begin(line) {
            self.finish(stream, found);
            if self.notes.len() < MAX_STREAMS {
                let note = Note::new(number, origin, is_named);
                self.notes.insert(stream.to_owned(), note);
            }
            return;
        }
        let Some(note) = self.notes.get_mut(stream) else {
            return;
        };
        let goes_on = line.is_empty() && note.signatures.is_empty() || note.take(line);
        note.between = note.between.saturating_add(u32::from(!goes_on));
        let is_whole = note.is_signed() && !goes_on;
        if is_whole || note.between > MAX_BETWEEN {
            self.finish(stream, found);
        }
    }

    /// Ends this stream's note.
    fn finish(&mut self, stream: &str, found: &mut Vec<At>) {
        found.extend(self.notes.remove(stream).and_then(Note::finish));
    }

    /// Ends all notes.
    pub(super) fn end(&mut self, found: &mut Vec<At>) {
        for (_, note) in std::mem::take(&mut self.notes) {
            found.extend(note.finish());
        }
    }
}

impl Note {
    fn new(line: u64, origin: &str, is_named: bool) -> Self {
        Self {
            line,
            is_named,
            origin: origin.to_owned(),
            size: None,
            root: None,
            signatures: Vec::new(),
            between: 0,
        }
    }

    /// Takes the line if it is the next one of the note, and returns whether it is.
    fn take(&mut self, line: &str) -> bool {
        if self.size.is_none() {
            let is_size = line
                .parse::<u64>()
                .is_ok_and(|size| size.to_string() == line);
            self.size = is_size.then(|| line.to_owned());
            return is_size;
        }
        if self.root.is_none() {
            let is_root = STANDARD.decode(line).is_ok_and(|bytes| bytes.len() == 32);
            self.root = is_root.then(|| line.to_owned());
            return is_root;
        }
        let name = line
            .strip_prefix("— ")
            .and_then(|rest| rest.split(' ').next());
        // A line of another trail's checkpoint that came in between does not belong to this note.
        let is_ours = name.is_some_and(|name| !name.starts_with(ORIGIN) || name == self.origin);
        if is_ours && self.signatures.len() < MAX_SIGNATURES {
            self.signatures.push(line.to_owned());
        }
        is_ours
    }

    fn is_signed(&self) -> bool {
        let own = format!("— {} ", self.origin);
        self.signatures.iter().any(|line| line.starts_with(&own))
    }

    fn finish(self) -> Option<At> {
        let (Some(size), Some(root)) = (&self.size, &self.root) else {
            let words = "what follows is not its size and its root";
            return self
                .is_named
                .then(|| (self.line, Found::Cut(words.to_owned())));
        };
        if self.signatures.is_empty() {
            return Some((self.line, Found::Cut("its signature is missing".to_owned())));
        }
        let signatures = self.signatures.join("\n");
        let text = format!("{}\n{size}\n{root}\n\n{signatures}\n", self.origin);
        Some((self.line, parse(&text)))
    }
}

fn parse(text: &str) -> Found {
    match text.parse::<Checkpoint>() {
        Err(error) => Found::Cut(error.to_string()),
        Ok(checkpoint) if checkpoint.signature() == [0; 64] => {
            Found::Cut("its own signature is missing".to_owned())
        }
        Ok(checkpoint) => Found::Whole(checkpoint),
    }
}

/// Returns the origin with which a line ends, if a note may begin there. The flag is true for the
/// value of a field named `checkpoint`, and false for an origin alone on the line.
fn begin(line: &str) -> Option<(&str, bool)> {
    let (before, origin) = line.split_at_checked(line.rfind(ORIGIN)?)?;
    let (worker, digits) = origin.strip_prefix(ORIGIN)?.split_once('/')?;
    let is_origin = !worker.is_empty()
        && !worker.contains(char::is_whitespace)
        && digits.len() == 16
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let before = before.trim_end_matches(['"', '\\', '\'']);
    let is_named = [
        "checkpoint=",
        "checkpoint: ",
        "checkpoint\":",
        "checkpoint\\\":",
    ]
    .into_iter()
    .any(|name| before.ends_with(name) || before.trim_end() == name.trim_end());
    let is_begun = is_origin || is_named && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_begun && (is_named || before.is_empty())).then_some((origin, is_named))
}
