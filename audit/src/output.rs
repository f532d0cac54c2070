//! The command's output: results on standard output, everything else on standard error.
//!
//! Evidence comes from the author of the trail. So text for people contains no control characters,
//! and only the command ends a line. Data for programs is the exact bytes. This module does not
//! know what is printed.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The reason why a subcommand stopped early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of standard output has closed it.
    Closed,
    /// The question cannot be answered: exit status 2.
    CouldNot(String),
    /// The evidence is wrong: exit status 1.
    Wrong(String),
}

impl From<io::Error> for Failure {
    /// Converts an error of standard output. All other errors name their subject.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::CouldNot(format!("the output cannot be written: {error}")),
        }
    }
}

/// Makes the failure of an operation, with its causes.
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

/// Prints one line on standard error. Best effort: it may be closed.
pub(crate) fn tell(words: impl fmt::Display) {
    let words = printable(&words.to_string());
    let _nobody = writeln!(io::stderr(), "vram-audit: {words}");
}

/// Standard output.
pub(crate) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    colours: bool,
}

/// The style of a text on a terminal.
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

    /// Prints text for people, within a line. Control characters are escaped.
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

    /// Ends a line for people. No text can do that.
    pub(crate) fn end_line(&mut self) -> io::Result<()> {
        self.stdout.write_all(b"\n")
    }

    /// Prints bytes for programs unchanged.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Flushes what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// Flushes everything at the end.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Returns the text with every character escaped that could begin a line, move a terminal's cursor
/// or change its state. Characters that change the direction of text are escaped, too.
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

/// Shows a progress bar on standard error, if that is a terminal. Nothing of it remains on the
/// screen.
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
