//! Which lines are records: by the loose rules of format 1, and by the one form of format 2. The
//! library and the script, which has a reader of JSON of its own, must say the same of each.

use serde_json::{Value, json};
use vram_residency::audit::{Outcome, Report, UnanchoredEnd, Verdict};

use crate::built::{Trail, broken, holds};
use crate::script::Script;

/// What a line is: no record at all, one by the rules of format 1, or one by those of format 2.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Is {
    Nothing,
    Loose,
    OneForm,
}

/// A critical record with this value as its last field, after a fuller hostile writer's heart.
fn critical(value: &str) -> String {
    line(&format!(r#","violation":{value}"#))
}

fn line(own: &str) -> String {
    format!(
        r#"{{"seq":1,"time":"2026-01-02T03:04:05.000000001Z","mono_us":1,"boot":"b0","worker":"worker-1","event":"PolicyViolation","severity":"CRITICAL","outcome":"failure"{own}}}"#
    )
}

/// The common fields with one of them changed.
fn common(from: &str, to: &str) -> String {
    let line = line("");
    assert!(line.contains(from));
    line.replacen(from, to, 1)
}

fn time(time: &str) -> String {
    common("2026-01-02T03:04:05.000000001Z", time)
}

#[rustfmt::skip]
fn lines() -> Vec<(String, Is)> {
    use Is::{Loose, Nothing, OneForm};
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let objects = |levels: usize| "{\"a\":".repeat(levels) + "1" + &"}".repeat(levels);
    let values = [
        // Strings.
        (r#""plain""#.to_owned(), OneForm),
        (r#""\"\\\b\f\n\r\t\u0000\u001f""#.to_owned(), OneForm),
        ("\"é\u{7f}\u{85}\u{2028}\u{feff}😀\u{ffff}\"".to_owned(), OneForm),
        (r#""\ud800""#.to_owned(), Loose),
        (r#""\udfff x""#.to_owned(), Loose),
        (r#""\udc00\ud800""#.to_owned(), Loose),
        (r#""\ud83d\ude00""#.to_owned(), Loose),
        (r#""\u0041""#.to_owned(), Loose),
        (r#""\/""#.to_owned(), Loose),
        (r#""\u000a""#.to_owned(), Loose),
        (r#""\u001F""#.to_owned(), Loose),
        (r#""\x41""#.to_owned(), Nothing),
        (r#""\u12""#.to_owned(), Nothing),
        (r#""\u00zz""#.to_owned(), Nothing),
        ("\"tab\there\"".to_owned(), Nothing),
        ("\"zero\0here\"".to_owned(), Nothing),
        ("\"no end".to_owned(), Nothing),
        // Numbers.
        ("0".to_owned(), OneForm),
        ("-5".to_owned(), OneForm),
        ("18446744073709551615".to_owned(), OneForm),
        ("-9223372036854775808".to_owned(), OneForm),
        ("18446744073709551616".to_owned(), Loose),
        ("-9223372036854775809".to_owned(), Loose),
        ("99999999999999999999".to_owned(), Loose),
        ("-0".to_owned(), Loose),
        ("1.0".to_owned(), Loose),
        ("-1.5e-3".to_owned(), Loose),
        ("1E2".to_owned(), Loose),
        ("1e999999999".to_owned(), Loose),
        ("-1e-999999999".to_owned(), Loose),
        ("9".repeat(20_000), Loose),
        (format!("0.{}", "1".repeat(20_000)), Loose),
        ("01".to_owned(), Nothing),
        ("-01".to_owned(), Nothing),
        ("+1".to_owned(), Nothing),
        ("1.".to_owned(), Nothing),
        (".5".to_owned(), Nothing),
        ("1e".to_owned(), Nothing),
        ("0x10".to_owned(), Nothing),
        ("NaN".to_owned(), Nothing),
        ("-Infinity".to_owned(), Nothing),
        // Words, levels, names.
        ("true".to_owned(), OneForm),
        ("null".to_owned(), Loose),
        ("[null]".to_owned(), Loose),
        ("nul".to_owned(), Nothing),
        ("True".to_owned(), Nothing),
        ("[]".to_owned(), OneForm),
        (r#"{"a":{"a":[1,"x",{}]},"b":2}"#.to_owned(), OneForm),
        (nested(15), OneForm),
        (nested(16), Loose),
        (objects(15), OneForm),
        (objects(16), Loose),
        (nested(1_000), Loose),
        (nested(20_000), Loose),
        (objects(9_000), Loose),
        ("[".repeat(20_000), Nothing),
        (nested(20) + "]", Nothing),
        ("[}".to_owned(), Nothing),
        ("[1,]".to_owned(), Nothing),
        ("{,}".to_owned(), Nothing),
        (r#"{"a"}"#.to_owned(), Nothing),
        (r#"{"a":1,"a":1}"#.to_owned(), Loose),
        (r#"[[{"b":1,"a":1,"b":2}]]"#.to_owned(), Loose),
        (r#"{"\u0061":1}"#.to_owned(), Loose),
        (r#"{"\ud800":1}"#.to_owned(), Loose),
        (r#"{"\n":1,"\\":2}"#.to_owned(), OneForm),
        // White space.
        (" 1".to_owned(), Loose),
        ("1\t".to_owned(), Loose),
        ("[1, 2]".to_owned(), Loose),
        ("\r1".to_owned(), Loose),
        ("\u{a0}1".to_owned(), Nothing),
        ("\u{c}1".to_owned(), Nothing),
        ("\u{b}1".to_owned(), Nothing),
    ];
    let mut lines: Vec<_> = values.iter().map(|(value, is)| (critical(value), *is)).collect();
    lines.extend([
        (line(""), OneForm),
        (line(r#","a":1,"b":2,"violation":"twice","a":3"#), Loose),
        (line(r#","\u0061":1"#), Loose),
        (line(r#","\ud800":1"#), Nothing),
        (line(r#","seq":1"#), Nothing),
        (line(r#","s\u0065q":1"#), Nothing),
        (line(r#","":0"#), OneForm),
        (line(","), Nothing),
        (line("") + "\r", Loose),
        (line("") + " ", Loose),
        (line("") + "\u{feff}", Nothing),
        (line("") + "{}", Nothing),
        (" ".to_owned() + &line(""), Loose),
        ("\u{feff}".to_owned() + &line(""), Nothing),
        (common(":1,", " : 1 ,"), Loose),
        (common("\"boot\"", "\"bo\\u006ft\""), Nothing),
        (common("\"b0\"", "\"b\\u0030\""), Nothing),
        (common("\"b0\"", "\"\""), OneForm),
        (common("\"b0\"", "null"), Nothing),
        (common("\"mono_us\":1", "\"mono_us\":18446744073709551615"), OneForm),
        (common("\"mono_us\":1", "\"mono_us\":18446744073709551616"), Nothing),
        (common("\"mono_us\":1", "\"mono_us\":-0"), Nothing),
        (common("\"mono_us\":1", "\"mono_us\":1.0"), Nothing),
        (common("\"seq\":1", "\"seq\":1e0"), Nothing),
        (common("CRITICAL", "critical"), Nothing),
        (time("9999-99-99T99:99:99.999999999Z"), Loose),
        (time("2026-02-30T00:00:00.000000000Z"), Loose),
        (time("2026-02-29T00:00:00.000000000Z"), Loose),
        (time("2024-02-29T00:00:00.000000000Z"), OneForm),
        (time("1900-02-29T00:00:00.000000000Z"), Loose),
        (time("0000-01-01T00:00:00.000000000Z"), Loose),
        (time("0001-01-01T00:00:00.000000000Z"), OneForm),
        (time("9999-12-31T23:59:59.999999999Z"), OneForm),
        (time("2016-12-31T23:59:60.000000000Z"), Loose),
        (time("2026-01-02T24:00:00.000000000Z"), Loose),
        (time("2026-13-01T00:00:00.000000000Z"), Loose),
        (time("2026-01-00T00:00:00.000000000Z"), Loose),
        (time("2026-01-02T03:04:05.00000000Z"), Nothing),
        (time("2026-01-02t03:04:05.000000000Z"), Nothing),
        (time("2026-01-02T03:04:05.000000000z"), Nothing),
    ]);
    lines
}

/// A run that ends properly, with this line in it.
fn with(format: Option<u64>, line: &[u8]) -> Trail {
    let mut trail = Trail::new();
    trail.format = format;
    trail
        .open("TrailOpened")
        .notes(1)
        .instead(line)
        .checkpoint();
    trail.notes(1).close();
    trail
}

fn verdict(report: &Report) -> Verdict {
    report.verdict(UnanchoredEnd::Accepted)
}

#[test]
fn a_hostile_line_is_a_record_to_everybody_or_to_nobody() {
    let mut script = Script::start();
    for (line, is) in lines() {
        let short: String = line.chars().skip(150).take(60).collect();
        for (format, least) in [
            (None, Is::Loose),
            (Some(1), Is::Loose),
            (Some(2), Is::OneForm),
        ] {
            let trail = with(format, line.as_bytes());
            let report = trail.verify(&[trail.anchor()]);
            if is >= least {
                assert_eq!(
                    verdict(&report),
                    Verdict::Sound,
                    "{short} {format:?}\n{report}"
                );
            } else {
                broken(&report, "record");
            }
            if let Some(script) = &mut script {
                let (dir, keys) = (trail.stored(), [trail.key_text()]);
                script.agrees(&short, dir.path(), &keys, Some(&trail.note), &report);
            }
        }
    }
    for bytes in [&b"\xff"[..], b"\xed\xa0\x80", b"\xc0\xaf"] {
        let own = [br#","text":""#, bytes, b"\""].concat();
        let mut line = line("").into_bytes();
        line.pop();
        line.extend_from_slice(&own);
        line.push(b'}');
        for format in [None, Some(2)] {
            let trail = with(format, &line);
            let report = trail.verify(&[]);
            broken(&report, "record");
            if let Some(script) = &mut script {
                script.agrees(
                    "bytes",
                    trail.stored().path(),
                    &[trail.key_text()],
                    None,
                    &report,
                );
            }
        }
    }
}

/// A line with hostile facts about the trail itself.
#[test]
fn facts_have_their_types_to_both() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let facts = [
        ("RecordsLost", r#""first":1,"last":1,"count":1,"count":1"#),
        ("RecordsLost", r#""first":1.0,"last":1,"count":1"#),
        ("RecordsLost", r#""first":-0,"last":1,"count":1"#),
        ("RecordsLost", r#""first":true,"last":1,"count":1"#),
        ("RecordsLost", r#""first":1,"last":1"#),
        (
            "RecordsLost",
            r#""first":1,"last":18446744073709551615,"count":1"#,
        ),
        (
            "RecordsLost",
            r#""first":1,"last":18446744073709551616,"count":1"#,
        ),
        (
            "RecordsLost",
            r#""first":0,"last":18446744073709551615,"count":18446744073709551615"#,
        ),
        (
            "TailRecovered",
            r#""segment":0,"void_from":0,"void_bytes":0,"highest_seq":"1""#,
        ),
        (
            "TailRecovered",
            r#""segment":0,"void_from":0,"void_bytes":0,"highest_seq":null"#,
        ),
        (
            "TailRecovered",
            r#""segment":0,"void_from":0,"void_bytes":0,"highest_seq":0"#,
        ),
        ("TrailClosed", r#""offset":null"#),
        ("TrailClosed", r#""offset":"5""#),
        ("TrailClosed", r#""offset":5.0"#),
        ("TrailClosed", r#""x":1"#),
        ("KeyChanged", r#""key":5"#),
        ("KeyChanged", r#""key":"k","key":"k""#),
        ("KeyChanged", r#""key":"k","previous_key":7"#),
        ("KeyChanged", r#""key":"\ud800""#),
        (
            "TrailOpened",
            r#""segment":0,"first_leaf":0,"origin":"o","key":"k""#,
        ),
        ("SegmentOpened", r#""segment":0"#),
    ];
    for (event, fields) in facts {
        for format in [None, Some(2)] {
            let line = line(&format!(",{fields}")).replace("PolicyViolation", event);
            let mut trail = Trail::new();
            trail.format = format;
            trail
                .open("TrailOpened")
                .notes(1)
                .instead(line.as_bytes())
                .checkpoint();
            let keys = [trail.key_text()];
            let report = trail.verify(&[]);
            script.agrees(fields, trail.stored().path(), &keys, None, &report);
            // And where no checkpoint covers it: a line of this kind is told from garbage.
            let mut tail = Trail::new();
            tail.format = format;
            tail.open("TrailOpened").checkpoint().notes(1);
            tail.write(b"{\"checkpoint\":\n");
            tail.notes(1).instead(line.as_bytes());
            let report = tail.verify(&[]);
            script.agrees(fields, tail.stored().path(), &keys, None, &report);
        }
    }
}

#[test]
fn previous_is_an_object_with_fields_of_its_types() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let mut good = Trail::new();
    good.open("TrailOpened").checkpoint().open("SegmentOpened");
    let header = String::from_utf8(good.leaves.last().unwrap().clone()).unwrap();
    let (before, rest) = header.split_once(r#""previous":"#).unwrap();
    let (previous, behind) = rest.split_once(r#","segment":1"#).unwrap();
    let previous: Value = serde_json::from_str(previous).unwrap();
    let array = json!([
        previous["segment"],
        previous["end"],
        0,
        previous["checkpoint"],
        previous["frontier"]
    ]);
    let twice = previous.to_string().replacen('{', r#"{"end":5,"#, 1);
    let unknown = previous
        .to_string()
        .replacen('{', r#"{"later":[{"\ud800":1e9}],"#, 1);
    for (value, fits) in [
        (previous.to_string(), true),
        (unknown, true),
        (array.to_string(), false),
        (twice, false),
        ("null".to_owned(), false),
        ("5".to_owned(), false),
        (previous.to_string().replace("\"end\":", "\"end\":-"), false),
        (previous.to_string().replace("[\"", "[7,\""), false),
        (
            previous
                .to_string()
                .replace("[\"", "{\"a\":[\"")
                .replace("\"]", "\"]}"),
            false,
        ),
    ] {
        let mut trail = good.clone();
        let line = format!("{before}\"previous\":{value},\"segment\":1{behind}");
        trail
            .instead(line.as_bytes())
            .checkpoint()
            .notes(1)
            .checkpoint();
        let report = trail.verify(&[]);
        assert_eq!(report.outcome == Outcome::Holds, fits, "{value}\n{report}");
        script.agrees(
            &value,
            trail.stored().path(),
            &[trail.key_text()],
            None,
            &report,
        );
    }
}

#[test]
fn a_checkpoint_line_that_is_too_long_is_garbage_to_both() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let mut trail = Trail::new();
    trail.open("TrailOpened").checkpoint().notes(1);
    trail.write(format!("{{\"checkpoint\":\"{}\"}}\n", "x".repeat(70_000)).as_bytes());
    trail.notes(1);
    let report = trail.verify(&[]);
    holds(&report);
    script.agrees(
        "long",
        trail.stored().path(),
        &[trail.key_text()],
        None,
        &report,
    );
}

/// A later version may have rules that nobody knows yet: no verdict, and a reason.
#[test]
fn a_later_format_is_not_checked() {
    let mut trail = Trail::of_format_2();
    trail.open("TrailOpened").checkpoint().close();
    trail.format = Some(3);
    trail.open("TrailOpened").notes(1).checkpoint();
    let report = trail.verify(&[trail.anchor()]);
    assert_eq!(report.outcome, Outcome::NotChecked, "{report}");
    assert!(
        report.not_checked[0].contains("segment 000001 is written in format 3"),
        "{report}"
    );
    // What is broken before that stays broken.
    let mut damaged = trail.clone();
    let at = damaged.segments[0].len() / 2;
    damaged.segments[0][at] ^= 1;
    let other = damaged.verify(&[]);
    assert_eq!(other.outcome, Outcome::Broken, "{other}");
    if let Some(mut script) = Script::start() {
        let keys = [trail.key_text()];
        script.agrees(
            "later",
            trail.stored().path(),
            &keys,
            Some(&trail.note),
            &report,
        );
        script.agrees("damaged", damaged.stored().path(), &keys, None, &other);
    }
}
