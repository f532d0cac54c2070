//! What the command tells, and where: results on standard output, everything else on standard error.
//!
//! Evidence comes from whoever wrote the trail, so what is shown to people has no control characters
//! in it, and a line ends where the command says so; what is made for programs is the exact bytes.
//! This module does not know what is told.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Why a subcommand ended before its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever reads our output has enough.
    Closed,
    /// The question cannot be answered: exit status 2.
    CouldNot(String),
    /// The evidence is not what it should be: exit status 1.
    Wrong(String),
}

impl From<io::Error> for Failure {
    /// Of an error at standard output; all others name what they are about.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::CouldNot(format!("the output cannot be written: {error}")),
        }
    }
}

/// A failure to do something, with its causes.
pub(crate) fn could_not(error: &dyn Error) -> Failure {
    Failure::CouldNot(with_causes(error))
}

pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _infallible = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Says one line to whoever sits there. That nobody does is no reason to fail.
pub(crate) fn tell(words: impl fmt::Display) {
    let words = printable(&words.to_string());
    let _nobody = writeln!(io::stderr(), "vram-audit: {words}");
}

/// Standard output.
pub(crate) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    colours: bool,
}

/// How a text stands out on a terminal.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Bad,
    Dim,
    Good,
    Plain,
    Warning,
}

impl Out {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
        Self {
            colours: stdout.is_terminal() && wanted,
            stdout: BufWriter::new(stdout.lock()),
        }
    }

    /// Text for people, within a line: control characters are shown and not sent.
    pub(crate) fn text(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.coloured(Colour::Plain, text)
    }

    pub(crate) fn coloured(&mut self, colour: Colour, text: impl fmt::Display) -> io::Result<()> {
        let text = printable(&text.to_string());
        let code = match colour {
            Colour::Bad => "1;31",
            Colour::Dim => "2",
            Colour::Good => "1;32",
            Colour::Warning => "1;33",
            Colour::Plain => "",
        };
        if self.colours && !code.is_empty() {
            write!(self.stdout, "\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            self.stdout.write_all(text.as_bytes())
        }
    }

    /// Ends a line for people: no text can.
    pub(crate) fn end_line(&mut self) -> io::Result<()> {
        self.stdout.write_all(b"\n")
    }

    /// Bytes for programs, as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// What was written so far is out, or this is the error.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// What was written is out, or this is the error.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// The text with every character escaped that could begin a line, move a terminal's cursor, change
/// its state, or turn the direction of what follows.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if character == '\n' {
            shown.push_str("\\n");
        } else if character.is_control() || hidden {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A bar on standard error, or nothing if that is no terminal. None of it stays.
pub(crate) fn progress_bar(bytes: u64, what: String) -> ProgressBar {
    let style = "{msg:.dim} [{bar:40}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_message(printable(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(printable("a\nb ä 字"), "a\\nb ä 字");
        for control in ["\u{1b}[2J", "\r", "\u{9b}31m", "\u{7f}", "\u{202e}", "\0"] {
            let shown = printable(control);
            assert!(shown.starts_with("\\u{"), "{shown}");
            assert!(shown.chars().all(|c| !c.is_control()), "{shown}");
        }
    }
}
