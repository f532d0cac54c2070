//! Reads records in the plain form, which the writer uses for nearly all of them, without a JSON
//! parser. A parser takes several times as long.
//!
//! The form is an object without white space, escapes or nesting, whose values are strings, whole
//! numbers, `true` or `false`. Every line in this form is JSON, and a parser returns the same
//! values. Nothing else must hold here, since lines in other forms go to a parser. Unless a name
//! occurs twice, the line is also in the canonical form of a record of format 2.

use memchr::memchr;

use super::line::{COMMON, Common};

/// Reads a record in the plain form. Returns `None` if the line has another form, or is no record.
pub(super) fn parse(line: &str) -> Option<Common<'_>> {
    // Tests all bytes without an early end, so that the compiler can use vector instructions.
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
    rest.any_number()?;
    rest.skip(r#","boot":""#)?;
    rest.text()?;
    rest.skip(r#","worker":""#)?;
    let worker = rest.text()?;
    rest.skip(r#","event":""#)?;
    let event = rest.text()?;
    rest.skip(r#","severity":""#)?;
    let severity = rest.text()?;
    rest.skip(r#","outcome":""#)?;
    let outcome = rest.text()?;
    let mut names = Names::new(rest.0);
    while rest.0 != "}" {
        let before = rest.0;
        rest.skip(",\"")?;
        names.add(rest.text()?, before)?;
        rest.skip(":")?;
        rest.value()?;
    }
    let mut common = Common::new(seq, time, worker, event, severity, outcome)?;
    common.in_one_form = !names.twice;
    Some(common)
}

/// The most names of own fields, since each pair must be compared. A record with more goes to a
/// parser.
const MAX_NAMES: usize = 64;

/// The names of a record's own fields, to detect duplicates and names of common fields.
struct Names<'a> {
    /// The fields, from the first one on.
    fields: &'a str,
    /// The marks of all names so far, those of the common fields included.
    seen: u128,
    count: usize,
    twice: bool,
}

impl<'a> Names<'a> {
    fn new(fields: &'a str) -> Self {
        const SEEN: u128 = marks(&COMMON);
        Self {
            fields,
            seen: SEEN,
            count: 0,
            twice: false,
        }
    }

    /// Adds a name. `before` begins with its field. Returns `None` if it is a common field's name,
    /// or if there are too many.
    fn add(&mut self, name: &str, before: &str) -> Option<()> {
        self.count = self.count.saturating_add(1);
        let mark = mark(name);
        if self.seen & mark != 0 {
            if COMMON.contains(&name) {
                return None;
            }
            self.twice |= self.stands_before(name, before)?;
        }
        self.seen |= mark;
        (self.count <= MAX_NAMES).then_some(())
    }

    /// Returns whether one of the fields before `end` has this name.
    fn stands_before(&self, name: &str, end: &str) -> Option<bool> {
        let mut rest = Rest(self.fields);
        while rest.0.len() > end.len() {
            rest.skip(",\"")?;
            if rest.text()? == name {
                return Some(true);
            }
            rest.skip(":")?;
            rest.value()?;
        }
        Some(false)
    }
}

/// Returns one bit for a name. Equal names have the same bit; other names in a record of the writer
/// rarely do.
const fn mark(name: &str) -> u128 {
    let [length, ..] = name.len().to_le_bytes();
    let (first, last) = match name.as_bytes() {
        [first, .., last] => (*first, *last),
        _ => (0, 0),
    };
    let mixed = first
        .wrapping_mul(5)
        .wrapping_add(last.wrapping_mul(15))
        .wrapping_add(length.wrapping_mul(11));
    1 << (mixed % 128)
}

const fn marks(mut names: &[&str]) -> u128 {
    let mut marks = 0;
    while let [name, rest @ ..] = names {
        marks |= mark(name);
        names = rest;
    }
    marks
}

/// The unread rest of a line without escapes.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Reads a string behind its first quote.
    fn text(&mut self) -> Option<&'a str> {
        let end = memchr(b'"', self.0.as_bytes())?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    /// Reads the digits of a whole number. JSON allows no leading zero.
    fn digits(&mut self) -> Option<&'a str> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at_checked(end)?;
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        self.0 = rest;
        Some(digits)
    }

    /// Reads a whole number that fits into 64 bits.
    fn number(&mut self) -> Option<u64> {
        self.digits()?.parse().ok()
    }

    /// Skips a whole number that fits into 64 bits.
    fn any_number(&mut self) -> Option<()> {
        /// Every number with so many digits fits.
        const FITS: usize = u64::MAX.ilog10() as usize;
        let digits = self.digits()?;
        let fits = matches!(digits.len(), 1..=FITS) || digits.parse::<u64>().is_ok();
        fits.then_some(())
    }

    fn value(&mut self) -> Option<()> {
        if self.skip("\"").is_some() {
            self.text().map(drop)
        } else if self.skip("true").is_some() || self.skip("false").is_some() {
            Some(())
        } else {
            self.any_number()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::form;
    use super::*;

    const GOOD: &str = r#"{"seq":17,"time":"2026-01-02T03:04:05.000000006Z","mono_us":10,"boot":"c3b290e6","worker":"w","event":"SealVerified","severity":"INFO","outcome":"success","shard":"é","allocation":0,"memory_locked":true,"wiped":false}"#;

    /// Pieces that make JSON, or nearly.
    const PIECES: [&str; 24] = [
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
        ",\"shard\":1",
        ",\"wiped\":true,\"wired\":0",
        ",\"a\":",
        "\u{7f}",
        "\"\"",
    ];

    #[test]
    fn a_name_that_stands_twice_is_noticed_however_many_there_are() {
        let counts = [1, 20, 63, 64, 65, 5000];
        let tried = if cfg!(miri) { 2 } else { counts.len() };
        for count in counts.into_iter().take(tried) {
            let named = |last: usize| {
                let fields: String = (0..count - 1).map(|n| format!(",\"f{n}\":1")).collect();
                format!("{},\"f{last}\":2}}", GOOD.split_once(",\"shard").unwrap().0) + &fields
            };
            let line = |last| {
                let line: String = named(last);
                let (before, behind) = line.split_once('}').unwrap();
                format!("{before}{behind}}}")
            };
            assert!(form::is_one(&line(count)));
            assert_eq!(form::is_one(&line(0)), count == 1);
            if count > MAX_NAMES {
                assert!(parse(&line(0)).is_none());
            } else {
                assert!(parse(&line(count)).unwrap().in_one_form);
                assert_eq!(parse(&line(0)).unwrap().in_one_form, count == 1);
            }
        }
    }

    #[test]
    fn records_of_the_writer_are_plain() {
        assert_eq!(parse(GOOD).unwrap().seq, 17);
        assert!(parse(&GOOD.replace(":10,", ":18446744073709551615,")).is_some());
        for wrong in [
            GOOD.replace("17", "017"),
            GOOD.replace("17", "-1"),
            GOOD.replace("17", "18446744073709551616"),
            GOOD.replace(":10,", ":18446744073709551616,"),
            GOOD.replace(":10,", ":,"),
            GOOD.replace(":0,", ":18446744073709551616,"),
            GOOD.replace("shard", "seq"),
            GOOD.replace("shard", "sh\\u0061rd"),
            GOOD.replace("true", "null"),
            GOOD.replace("INFO", "LOUD"),
            format!("{GOOD}}}"),
            format!("{GOOD} "),
        ] {
            assert!(parse(&wrong).is_none(), "{wrong}");
        }
        for name in COMMON {
            assert!(parse(&GOOD.replace("shard", name)).is_none(), "{name}");
            assert!(parse(&GOOD.replace("wiped", name)).is_none(), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        #[cfg_attr(miri, ignore = "needs many cases")]
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
                prop_assert_eq!(plain.in_one_form, form::is_one(&line));
            }
        }
    }
}
