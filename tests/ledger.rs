//! The documents: the ledger of misuse names cases and tests that exist and forgets no case, and links lead
//! somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_row_names_what_shows_it() {
    let ledger = read("docs/misuse.md");
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
    for (row, named) in rows(&read("SECURITY.md"), "Not defended") {
        let reason = row.trim_matches('|').split(" | ").nth(1).unwrap_or("");
        assert!(named.is_empty() && reason.len() > 20, "{row}");
    }
}

#[test]
fn every_test_named_exists() {
    let pages = pages().into_iter().flat_map(|page| named(&read(&page)));
    for named in pages {
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
    let ledger = read("docs/misuse.md");
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

/// In the files as they are, for who reads them in a repository.
#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        let folder = Path::new(ROOT).join(&page);
        let folder = folder.parent().unwrap();
        for target in targets(&text) {
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            if file.starts_with("https://") {
                continue;
            }
            let path = folder.join(file);
            let is_page = file.is_empty() || path.is_file();
            assert!(is_page, "{page}: {target}");
            let there = match file {
                "" => text.clone(),
                _ => fs::read_to_string(&path).unwrap(),
            };
            let has = there.lines().filter(|line| line.starts_with('#'));
            let mut has = has.map(|line| anchor(line.trim_start_matches('#').trim()));
            assert!(
                heading.is_empty() || has.any(|one| one == heading),
                "{page}: {target}"
            );
        }
        let undefined = undefined(&text);
        assert!(
            undefined.is_empty(),
            "{page}: nothing says where {undefined:?} lead"
        );
    }
    assert!(links > 30, "{links}");
}

/// Rustdoc has every page, under the names by which the files link to each other.
#[test]
fn every_page_is_part_of_rustdoc() {
    let (root, module) = (read("src/lib.rs"), read("src/docs.rs"));
    let mut pages_linked = BTreeSet::new();
    for page in pages() {
        for line in read(&page).lines() {
            let Some((name, target)) = definition(line) else {
                continue;
            };
            assert!(root.contains(&format!("[{name}]: ")), "{name}");
            assert!(module.contains(&format!("[{name}]: ")), "{name}");
            let file = Path::new(target).file_name().unwrap();
            pages_linked.insert(file.to_str().unwrap().to_owned());
        }
        let is_included = page == "README.md" || page == "trail/FORMAT.md";
        let line = format!("\"../{page}\");");
        assert!(is_included || module.contains(&line), "{page}");
    }
    for page in pages() {
        let file = Path::new(&page).file_name().unwrap().to_str().unwrap();
        let is_start = page == "README.md";
        assert!(
            is_start || pages_linked.contains(file),
            "no page links to {page}"
        );
    }
}

#[test]
fn a_link_that_leads_nowhere_is_noticed() {
    let text = "[a](b.md) and `[c](d)` and [e] and [f][g]\n```\n[h](i)\n```\n[e]: j.md\n";
    assert_eq!(targets(text), ["b.md", "j.md"]);
    assert_eq!(undefined(text), ["g"]);
    assert_eq!(anchor("Where to put a `trail`?"), "where-to-put-a-trail");
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
        .split_once(&format!("\n## {heading}\n"))
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

/// The pages of the documentation.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    let others = ["README.md", "SECURITY.md", "trail/FORMAT.md"];
    docs.chain(others.map(str::to_owned)).collect()
}

/// The lines without blocks and pieces of code.
fn prose(text: &str) -> Vec<String> {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let without_code = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    lines.map(without_code).collect()
}

/// `[name]: target`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, target) = line.strip_prefix('[')?.split_once("]: ")?;
    (!name.contains(']')).then_some((name, target))
}

/// Where links lead.
fn targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in prose(text) {
        match definition(&line) {
            Some((_, target)) => targets.push(target.to_owned()),
            None => {
                let inline = line.split("](").skip(1);
                targets.extend(inline.map(|rest| rest.split(')').next().unwrap().to_owned()));
            }
        }
    }
    targets
}

/// Names in brackets that nothing defines, and that are no link of their own.
fn undefined(text: &str) -> Vec<String> {
    let prose = prose(text);
    let defined: BTreeSet<&str> = prose
        .iter()
        .filter_map(|line| definition(line))
        .map(|(name, _)| name)
        .collect();
    let mut undefined = Vec::new();
    for line in prose.iter().filter(|line| definition(line).is_none()) {
        for (at, _) in line.match_indices('[') {
            let Some((name, rest)) = line[at + 1..].split_once(']') else {
                continue;
            };
            // `[text](target)`, `[text][name]`; and measured numbers have their spread in brackets.
            let is_other = rest.starts_with(['(', '[']) || name.contains("..");
            if !is_other && !defined.contains(name) {
                undefined.push(name.to_owned());
            }
        }
    }
    undefined
}

/// The anchor of a heading, as repositories make it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// Whatever is in backticks and is a file, or a function in a file.
fn named(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            ["ui-tests/", "tests/", "src/", "audit/", "digest/", "trail/"]
                .iter()
                .any(|dir| word.starts_with(dir))
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
