//! Records in the plain form that the writer gives nearly all of them, read without a JSON parser,
//! which takes several times as long.
//!
//! The form: an object without white space, escapes or nesting, whose values are strings, whole
//! numbers, `true` or `false`. Every line in this form is JSON, and a parser reads the same out of
//! it; this is all that must hold here, since what is not in this form goes to a parser.

use memchr::memchr;

use super::line::{COMMON, Common};

/// Reads a record in the plain form; none if the line has another form, or is no record.
pub(super) fn parse(line: &str) -> Option<Common<'_>> {
    // Not one by one with an early end, so that the compiler can use vectors.
    let is_plain = |byte: u8| byte >= b' ' && byte != b'\\';
    if !line.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        return None;
    }
    let mut rest = Rest(line);
    rest.skip(r#"{"seq":"#)?;
    let seq = rest.number()?;
    rest.skip(r#","time":""#)?;
    let time = rest.text()?;
    rest.skip(r#","mono_us":"#)?;
    rest.number()?;
    rest.skip(r#","boot":""#)?;
    rest.text()?;
    rest.skip(r#","worker":""#)?;
    rest.text()?;
    rest.skip(r#","event":""#)?;
    let event = rest.text()?;
    rest.skip(r#","severity":""#)?;
    let severity = rest.text()?;
    rest.skip(r#","outcome":""#)?;
    let outcome = rest.text()?;
    while rest.0 != "}" {
        rest.skip(",\"")?;
        if COMMON.contains(&rest.text()?) {
            return None;
        }
        rest.skip(":")?;
        rest.value()?;
    }
    Common::new(seq, time, event, severity, outcome)
}

/// What was not read yet of a line without escapes.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// A string behind its first quote.
    fn text(&mut self) -> Option<&'a str> {
        let end = memchr(b'"', self.0.as_bytes())?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    /// A whole number that fits; JSON allows no leading zero.
    fn number(&mut self) -> Option<u64> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at_checked(end)?;
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        self.0 = rest;
        digits.parse().ok()
    }

    fn value(&mut self) -> Option<()> {
        if self.skip("\"").is_some() {
            self.text().map(drop)
        } else if self.skip("true").is_some() || self.skip("false").is_some() {
            Some(())
        } else {
            self.number().map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"seq":17,"time":"2026-01-02T03:04:05.000000006Z","mono_us":10,"boot":"c3b290e6","worker":"w","event":"SealVerified","severity":"INFO","outcome":"success","shard":"é","allocation":0,"memory_locked":true,"wiped":false}"#;

    /// Pieces that make JSON, or nearly.
    const PIECES: [&str; 22] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0065",
        " ",
        "\t",
        "0",
        "1",
        "-",
        ".",
        "e5",
        "true",
        "null",
        "\"seq\":1",
        ",\"a\":",
        "\u{7f}",
        "\"\"",
    ];

    #[test]
    fn records_of_the_writer_are_plain() {
        assert_eq!(parse(GOOD).unwrap().seq, 17);
        for wrong in [
            GOOD.replace("17", "017"),
            GOOD.replace("17", "-1"),
            GOOD.replace("17", "18446744073709551616"),
            GOOD.replace("shard", "seq"),
            GOOD.replace("shard", "sh\\u0061rd"),
            GOOD.replace("true", "null"),
            GOOD.replace("INFO", "LOUD"),
            format!("{GOOD}}}"),
            format!("{GOOD} "),
        ] {
            assert!(parse(&wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn what_is_plain_is_the_same_to_a_json_parser(
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..4_usize, prop::sample::select(&PIECES[..])),
                0..4,
            ),
        ) {
            let mut line = GOOD.to_owned();
            for (at, removed, piece) in changes {
                let ends: Vec<usize> = line.char_indices().map(|(at, _)| at).collect();
                let from = at.index(ends.len());
                let to = ends.get(from + removed).copied().unwrap_or(line.len());
                line.replace_range(ends[from]..to, piece);
            }
            if let Some(plain) = parse(&line) {
                let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(parsed["seq"].as_u64(), Some(plain.seq));
                prop_assert_eq!(parsed["event"].as_str(), Some(plain.event));
                prop_assert!(serde_json::from_str::<Common<'_>>(&line).is_ok());
            }
        }
    }
}
