//! The canonical form of a record of format 2, checked without trust in its content.
//!
//! A holder of the key can sign a line that one reader takes for a record and another one cannot
//! read: a number without end, half a character, a duplicate name. The canonical form leaves no
//! room for disagreement. This module knows the form of a line. It does not know what fields mean,
//! nor that the common ones come first.

use memchr::memchr2;

/// The most levels of objects and arrays, the record itself being the first.
const MAX_LEVELS: usize = 16;

/// Returns whether a line is an object in the canonical form:
///
/// * no white space between its parts, no `null`, no number that is not whole,
/// * whole numbers from −2^63 to 2^64 − 1, without `-0` and without leading zeros,
/// * strings as RFC 8785 writes them: only `"`, `\` and characters below U+0020 are escaped, each
///   in one way,
/// * no name twice in one object, and at most 16 levels.
pub(super) fn is_one(line: &str) -> bool {
    let mut rest = Rest(line.as_bytes());
    line.bytes().all(|byte| byte >= b' ') && rest.object(1).is_some() && rest.0.is_empty()
}

/// The unread bytes.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Reads an object of this level.
    fn object(&mut self, level: usize) -> Option<()> {
        self.skip(b"{")?;
        if level > MAX_LEVELS || self.skip(b"}").is_some() {
            return (level <= MAX_LEVELS).then_some(());
        }
        let mut names = Vec::new();
        loop {
            names.push(self.text()?);
            self.skip(b":")?;
            self.value(level)?;
            if self.skip(b"}").is_some() {
                break;
            }
            self.skip(b",")?;
        }
        // There may be thousands of names.
        names.sort_unstable();
        let twice = |two: &[&[u8]]| matches!(two, [one, other] if one == other);
        (!names.windows(2).any(twice)).then_some(())
    }

    fn array(&mut self, level: usize) -> Option<()> {
        self.skip(b"[")?;
        if level > MAX_LEVELS || self.skip(b"]").is_some() {
            return (level <= MAX_LEVELS).then_some(());
        }
        loop {
            self.value(level)?;
            if self.skip(b"]").is_some() {
                return Some(());
            }
            self.skip(b",")?;
        }
    }

    /// Reads a value in an object or array of this level.
    fn value(&mut self, level: usize) -> Option<()> {
        match self.0.first()? {
            b'{' => self.object(level.saturating_add(1)),
            b'[' => self.array(level.saturating_add(1)),
            b'"' => self.text().map(drop),
            b't' => self.skip(b"true"),
            b'f' => self.skip(b"false"),
            _ => self.number(),
        }
    }

    /// Reads a string. Returns the bytes between its quotes.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.skip(b"\"")?;
        let text = self.0;
        loop {
            let at = memchr2(b'"', b'\\', self.0)?;
            let is_end = self.0.get(at) == Some(&b'"');
            self.0 = self.0.get(at.saturating_add(1)..)?;
            if is_end {
                let length = text.len().checked_sub(self.0.len())?.checked_sub(1)?;
                return text.get(..length);
            }
            self.escape()?;
        }
    }

    /// Reads the bytes behind a backslash.
    fn escape(&mut self) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        match first {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let (digits, rest) = self.0.split_first_chunk::<4>()?;
                self.0 = rest;
                // Characters with a letter escape are not written as numbers.
                let is_one = match digits {
                    [b'0', b'0', b'0', low] => matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f'),
                    [b'0', b'0', b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
                    _ => false,
                };
                is_one.then_some(())
            }
            _ => None,
        }
    }

    /// Reads a whole number that fits into 64 bits, with or without a sign.
    fn number(&mut self) -> Option<()> {
        let negative = self.skip(b"-").is_some();
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let length = self.0.iter().take_while(is_digit).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let digits = str::from_utf8(digits).ok()?;
        if digits.starts_with('0') && (negative || digits.len() > 1) {
            return None;
        }
        let value: u64 = digits.parse().ok()?;
        (!negative || value <= i64::MIN.unsigned_abs()).then_some(())
    }
}

/// Returns whether a time in the trail's form exists: a date of the calendar, from the year 1 on,
/// and a second of the day, without leap seconds.
pub(super) fn is_real(time: &[u8]) -> bool {
    let digit = |at: usize| {
        let byte = time.get(at).copied().unwrap_or_default();
        u32::from(byte.wrapping_sub(b'0'))
    };
    let two = |at: usize| {
        let tens = digit(at).saturating_mul(10);
        tens.saturating_add(digit(at.saturating_add(1)))
    };
    let year = two(0).saturating_mul(100).saturating_add(two(2));
    let leaps = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match two(5) {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leaps => 29,
        2 => 28,
        _ => 0,
    };
    year > 0 && (1..=days).contains(&two(8)) && two(11) < 24 && two(14) < 60 && two(17) < 60
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_value_has_one_form() {
        for one in [
            r#"{}"#,
            r#"{"a":0,"b":-1,"c":18446744073709551615,"d":-9223372036854775808}"#,
            r#"{"a":[],"b":[{},[1,"x"],true,false],"c":{"a":1}}"#,
            r#"{"a":"\"\\\b\f\n\r\t\u0000\u000b\u001f","é😀/":"\u007f is not escaped"}"#
                .replace("\\u007f", "\u{7f}")
                .as_str(),
        ] {
            assert!(is_one(one), "{one}");
            let value: Value = serde_json::from_str(one).unwrap();
            assert_eq!(value.to_string().len(), one.len(), "{one}");
        }
        for other in [
            "",
            "[]",
            "1",
            r#"{"a":1}x"#,
            r#" {"a":1}"#,
            r#"{"a": 1}"#,
            r#"{"a":1 }"#,
            "{\"a\":1}\r",
            r#"{"a":null}"#,
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e2}"#,
            r#"{"a":1e999999999}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":-9223372036854775809}"#,
            r#"{"a":-}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud83d\ude00"}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\u000A"}"#,
            r#"{"a":"\u000a"}"#,
            r#"{"a":"\u001F"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"b":[{"a":1,"c":2,"a":1}]}"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a"}"#,
            r#"{a:1}"#,
            "\u{feff}{}",
        ] {
            assert!(!is_one(other), "{other}");
        }
    }

    #[test]
    fn sixteen_levels_are_read_and_no_more() {
        let deep = |levels: usize| {
            let inside = levels - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(inside), "]".repeat(inside))
        };
        let deepest = if cfg!(miri) { 300 } else { 30_000 };
        assert!(is_one(&deep(16)) && !is_one(&deep(17)) && !is_one(&deep(deepest)));
        let objects = |levels: usize| "{\"a\":".repeat(levels - 1) + "{}" + &"}".repeat(levels - 1);
        assert!(is_one(&objects(16)) && !is_one(&objects(17)));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (time, expected) in [
            ("2026-01-31T08:00:00.000000000Z", true),
            ("2024-02-29T23:59:59.999999999Z", true),
            ("2000-02-29T00:00:00.000000000Z", true),
            ("0001-01-01T00:00:00.000000000Z", true),
            ("9999-12-31T23:59:59.999999999Z", true),
            ("9999-99-99T99:99:99.999999999Z", false),
            ("2026-02-29T00:00:00.000000000Z", false),
            ("1900-02-29T00:00:00.000000000Z", false),
            ("2026-04-31T00:00:00.000000000Z", false),
            ("2026-00-01T00:00:00.000000000Z", false),
            ("2026-01-00T00:00:00.000000000Z", false),
            ("2026-13-01T00:00:00.000000000Z", false),
            ("0000-01-01T00:00:00.000000000Z", false),
            ("2026-01-01T24:00:00.000000000Z", false),
            ("2026-01-01T00:60:00.000000000Z", false),
            ("2016-12-31T23:59:60.000000000Z", false),
        ] {
            assert_eq!(is_real(time.as_bytes()), expected, "{time}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// The output of `serde_json` for whole numbers and any text is in this form. Lines in this
        /// form are read by it, and written again unchanged.
        #[test]
        #[cfg_attr(miri, ignore = "needs many cases")]
        fn the_form_is_what_the_writer_writes(
            text in any::<String>(), name in "[a-z]{1,8}", number in any::<i64>(), piece in "[\\[\\]{},:\"\\\\ue0-9. -]{0,12}",
        ) {
            let written = serde_json::json!({ name.as_str(): [text, number] }).to_string();
            prop_assert!(is_one(&written), "{}", written);
            let other = written.replacen('[', &format!("[{piece}"), 1);
            if is_one(&other) {
                let value: Value = serde_json::from_str(&other).unwrap();
                prop_assert_eq!(value.to_string(), other);
            }
        }
    }
}
