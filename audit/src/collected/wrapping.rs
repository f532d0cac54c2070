//! Removes what log collectors put around a line, in any nesting.
//!
//! It handles CRI (`TIME stdout F LINE`, and `P` for a part), Docker's `json-file`, `journalctl`
//! (`-o json`, `short`, `short-iso`; `cat` adds nothing), lines of JSON, and the prefixes of
//! `kubectl logs` and `docker compose logs`. Of checkpoints, this module knows only the JSON field
//! that holds one.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The most layers that are removed.
const MAX_LAYERS: usize = 8;

/// The most streams whose begun lines are kept, and the most bytes that are kept for each.
const MAX_STREAMS: usize = 256;
const MAX_PART_BYTES: usize = 4 << 20;

/// The JSON fields that hold a line which may be wrapped itself.
const TEXTS: [&str; 8] = [
    "log",
    "MESSAGE",
    "message",
    "msg",
    "textPayload",
    "body",
    "line",
    "content",
];

/// The unwrapped content.
pub(super) enum Content<'a> {
    /// The value of a field for checkpoints.
    Field(&'a str),
    /// A line of text.
    Line(&'a str),
}

/// Takes lines of a log, and returns their content with the name of its stream.
#[derive(Default)]
pub(super) struct Unwrapper {
    parts: HashMap<String, String>,
}

type Visit<'a> = dyn FnMut(&str, Content<'_>) + 'a;

impl Unwrapper {
    pub(super) fn line(&mut self, line: &str, visit: &mut Visit<'_>) {
        self.layer(String::new(), line, MAX_LAYERS, visit);
    }

    /// Returns lines that were begun and never ended.
    pub(super) fn end(&mut self, visit: &mut Visit<'_>) {
        for (stream, text) in std::mem::take(&mut self.parts) {
            self.layer(stream, &text, MAX_LAYERS, visit);
        }
    }

    fn layer(&mut self, mut stream: String, text: &str, layers: usize, visit: &mut Visit<'_>) {
        let text = without_colours(text);
        let mut text = text.as_str();
        let mut left = layers;
        while let Some(fewer) = left.checked_sub(1) {
            left = fewer;
            if let Some((name, is_part, rest)) = cri(text) {
                stream.push_str(name);
                if let Some(whole) = self.join(&stream, rest, is_part) {
                    self.layer(stream, &whole, left, visit);
                }
                return;
            }
            if text.trim_start().starts_with('{')
                && let Ok(Value::Object(fields)) = serde_json::from_str(text)
            {
                return self.object(&stream, &fields, left, visit);
            }
            let Some((name, rest)) = prefix(text) else {
                break;
            };
            stream.push_str(name);
            text = rest;
        }
        for line in text.split('\n') {
            visit(&stream, Content::Line(line));
        }
    }

    fn object(
        &mut self,
        stream: &str,
        fields: &Map<String, Value>,
        layers: usize,
        visit: &mut Visit<'_>,
    ) {
        let Some(layers) = layers.checked_sub(1) else {
            return;
        };
        let mut stream = stream.to_owned();
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        for name in ["stream", "_STREAM_ID", "_SYSTEMD_UNIT", "_PID"] {
            stream.push_str(text(name).unwrap_or_default());
        }
        let is_docker = fields.contains_key("time")
            && fields
                .keys()
                .all(|name| ["log", "stream", "time", "attrs"].contains(&name.as_str()));
        for (name, value) in fields {
            let is_text = TEXTS.contains(&name.as_str());
            match value {
                Value::String(text) if is_checkpoint(name) => visit(&stream, Content::Field(text)),
                Value::String(line) if is_text => {
                    let is_part = match (text("logtag"), text("_LINE_BREAK")) {
                        (Some(tag), _) => tag.starts_with('P'),
                        (None, Some(reason)) => reason == "line-max",
                        (None, None) => is_docker && !line.ends_with('\n'),
                    };
                    let line = line.strip_suffix('\n').unwrap_or(line);
                    if let Some(whole) = self.join(&stream, line, is_part) {
                        self.layer(stream.clone(), &whole, layers, visit);
                    }
                }
                // journalctl writes unprintable text, such as colours, as a list of bytes.
                Value::Array(bytes) if name == "MESSAGE" => {
                    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
                    let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
                    let line = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    if let Some(line) = line {
                        let is_part = text("_LINE_BREAK") == Some("line-max");
                        if let Some(whole) = self.join(&stream, &line, is_part) {
                            self.layer(stream.clone(), &whole, layers, visit);
                        }
                    }
                }
                Value::Object(fields) => self.object(&stream, fields, layers, visit),
                _ => {}
            }
        }
    }

    /// Returns the whole line, unless this is a part of it and more comes.
    fn join(&mut self, stream: &str, text: &str, is_part: bool) -> Option<String> {
        let mut whole = self.parts.remove(stream).unwrap_or_default();
        whole.push_str(text);
        let has_room = self.parts.len() < MAX_STREAMS && whole.len() < MAX_PART_BYTES;
        if is_part && has_room {
            self.parts.insert(stream.to_owned(), whole);
            return None;
        }
        Some(whole)
    }
}

/// `tracing` writes `checkpoint`, and its layer for journald `F_CHECKPOINT`.
fn is_checkpoint(name: &str) -> bool {
    name.eq_ignore_ascii_case("checkpoint") || name.ends_with("_CHECKPOINT")
}

/// Parses a line of the container runtime interface: the stream, whether it is a part, the text.
fn cri(line: &str) -> Option<(&str, bool, &str)> {
    let (_, rest) = timestamp(line)?;
    let (stream, rest) = rest.split_once(' ')?;
    let (tags, text) = rest.split_once(' ').unwrap_or((rest.trim_end(), ""));
    let tag = tags.split(':').next()?;
    let is_cri = matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P");
    is_cri.then_some((stream, tag == "P", text))
}

/// Splits off a prefix that names the stream of a line.
fn prefix(line: &str) -> Option<(&str, &str)> {
    if let Some((_, rest)) = timestamp(line) {
        return Some(("", rest));
    }
    if let Some((source, rest)) = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        && source.contains('/')
        && !source.contains(char::is_whitespace)
    {
        return Some((source, rest));
    }
    if let Some((name, rest)) = line.split_once(" | ")
        && !name.is_empty()
        && !name.trim_end().contains(char::is_whitespace)
    {
        return Some((name.trim_end(), rest));
    }
    syslog(line)
}

/// Parses `HOST NAME[PID]: TEXT`, with or without a date of the classic form before it.
fn syslog(line: &str) -> Option<(&str, &str)> {
    let (before, rest) = line.split_once("]:")?;
    let (name, pid) = before.rsplit_once('[')?;
    let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    let words = name.split_whitespace().count();
    let fits = is_pid && (1..=5).contains(&words) && !name.contains(['"', '=', '/']);
    fits.then_some((before, rest.strip_prefix(' ').unwrap_or(rest)))
}

/// Splits off a first word that is an RFC 3339 time, also without a colon in its offset.
fn timestamp(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.trim_start().split_once(' ')?;
    let digits = |range| {
        let part: Option<&[u8]> = word.as_bytes().get(range);
        part.is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let at = |index: usize, byte| word.as_bytes().get(index) == Some(&byte);
    let is_time = word.len() >= 20 && digits(0..4) && at(4, b'-') && at(7, b'-') && at(10, b'T');
    (is_time && at(13, b':') && at(16, b':')).then_some((word, rest))
}

/// Returns the text without terminal colour sequences.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| c.is_ascii_alphabetic());
        let rest = end.and_then(|end| piece.get(end.saturating_add(1)..));
        plain.push_str(rest.unwrap_or_default());
    }
    plain
}
