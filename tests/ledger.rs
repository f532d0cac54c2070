//! The ledger of misuse in `SECURITY.md` names cases and tests that exist, and forgets no case.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_row_names_what_shows_it() {
    let ledger = read("SECURITY.md");
    for (row, named) in rows(&ledger, "Refused by the compiler") {
        assert!(!named.is_empty(), "{row}");
    }
    for heading in [
        "Refused at run time",
        "Refused or found at run time, in a GPU",
    ] {
        for (row, named) in rows(&ledger, heading) {
            let tests = named.iter().filter(|name| name.contains("::"));
            assert!(tests.count() == named.len() && !named.is_empty(), "{row}");
        }
    }
    for (row, named) in rows(&ledger, "Not defended") {
        let reason = row.trim_matches('|').split(" | ").nth(1).unwrap_or("");
        assert!(named.is_empty() && reason.len() > 20, "{row}");
    }
}

#[test]
fn every_test_named_exists() {
    for named in named(&read("SECURITY.md")) {
        let (file, test) = match named.split_once("::") {
            Some((file, test)) => (file, Some(test)),
            None => (named.as_str(), None),
        };
        assert!(Path::new(ROOT).join(file).exists(), "{named}");
        if let Some(test) = test {
            assert!(is_test(&read(file), test), "{named}");
        }
    }
}

#[test]
fn every_case_that_must_not_compile_is_in_the_ledger() {
    let ledger = read("SECURITY.md");
    let named: BTreeSet<String> = rows(&ledger, "Refused by the compiler")
        .into_iter()
        .flat_map(|(_, named)| named)
        .collect();
    for folder in ["ui-tests", "ui-tests/cuda"] {
        let mut cases = 0;
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".rs") {
                assert!(named.contains(&format!("{folder}/{name}")), "{name}");
                cases += 1;
            }
        }
        assert!(cases > 0);
    }
}

#[test]
fn what_is_no_test_is_not_taken_for_one() {
    let source =
        "#[test]\nfn shown() {}\n\n// A test's helper.\nfn helper() {}\n// fn remark() {}\n";
    assert!(is_test(source, "shown"));
    assert!(is_test("#[tokio::test]\nasync fn awaited() {}", "awaited"));
    for name in ["helper", "remark", "show", "absent"] {
        assert!(!is_test(source, name), "{name}");
    }
    assert!(!is_test("#[test]\n#[ignore]\nfn put_off() {}", "put_off"));
}

/// The rows of the table below a heading, without its first two lines, and what each names.
fn rows(ledger: &str, heading: &str) -> Vec<(String, Vec<String>)> {
    let (_, section) = ledger
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("there is no section `{heading}`"));
    let rows: Vec<_> = section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| (line.to_owned(), named(line)))
        .collect();
    assert!(!rows.is_empty(), "{heading}");
    rows
}

/// Whatever is in backticks and is a file, or a function in a file.
fn named(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            ["ui-tests/", "tests/", "src/"].map(|dir| word.starts_with(dir)) != [false; 3]
        })
        .map(str::to_owned)
        .collect()
}

/// Whether the source has a function of that name that runs as a test.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let attributes: Vec<_> = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#') || line.starts_with("//"))
            .collect();
        line.trim_start_matches("async ").starts_with(&head)
            && attributes
                .iter()
                .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
