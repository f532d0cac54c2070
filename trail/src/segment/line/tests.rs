//! Which lines are records, and what the longest one is.

use super::*;

const GOOD: &str = r#"{"seq":3,"time":"2026-01-02T03:04:05.000000006Z","mono_us":1,"boot":"b","worker":"w","event":"Note","severity":"INFO","outcome":"success","text":"a \" b"}"#;

#[test]
fn a_record_has_its_common_fields_once_and_in_order() {
    assert_eq!(parse_record(GOOD.as_bytes(), &mut None).unwrap().seq, 3);
    let highest = GOOD.replace("\"seq\":3", "\"seq\":9007199254740992");
    assert_eq!(
        parse_record(highest.as_bytes(), &mut None).unwrap().seq,
        MAX_SEQ
    );
    for wrong in [
        GOOD.replace("\"seq\":3,", ""),
        GOOD.replace("\"seq\":3", "\"seq\":-3"),
        GOOD.replace("\"seq\":3", "\"seq\":9007199254740993"),
        GOOD.replace("\"seq\":3", "\"s\\u0065q\":3"),
        GOOD.replace("\"Note\"", "\"N\\u006fte\""),
        GOOD.replace("\"worker\":\"w\"", "\"worker\":\"\\u0077\""),
        GOOD.replace("\"seq\":3", "\"seq\":3.0"),
        GOOD.replace(
            "\"boot\":\"b\",\"worker\":\"w\"",
            "\"worker\":\"w\",\"boot\":\"b\"",
        ),
        GOOD.replace("\"text\"", "\"seq\""),
        GOOD.replace("\"text\"", "\"s\\u0065q\""),
        GOOD.replace("INFO", "LOUD"),
        GOOD.replace("success", "unknown"),
        GOOD.replace("06Z", "6Z"),
        format!("{GOOD}x"),
        format!("[{GOOD}]"),
    ] {
        assert!(
            parse_record(wrong.as_bytes(), &mut None).is_none(),
            "{wrong}"
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn a_line_may_have_65_535_bytes_and_no_more() {
    for (length, fits) in [(MAX_LINE_BYTES, true), (MAX_LINE_BYTES + 1, false)] {
        let text = GOOD.replace("a \\\" b", &"x".repeat(length - GOOD.len() + 6));
        assert_eq!(text.len(), length);
        let line = Line::parse(text.as_bytes(), &mut None);
        assert_eq!(matches!(line, Line::Record(..)), fits);
        let line = Line::parse_unended(text.as_bytes());
        assert_eq!(matches!(line, Line::Torn), fits);
    }
}
