//! What must not compile does not, for the reason that its file names; what should compile does.
//!
//! Each file in `ui-tests/` begins with one line: what must not be possible, and the code of the
//! compiler's error (or the lint). The whole text of the error is compared only on the compiler that
//! the `.stderr` files were made with: codes are stable from one compiler to the next, texts are not.
//! On every other compiler the cases are built all the same, and the codes compared.
//!
//! That nothing of `fault-injection` exists without the feature is shown in the same way, by the
//! package in `tests/without-fault-injection`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::package;
use crate::support::name_of;

/// The compiler that made the `.stderr` files.
const TEXTS_OF: &str = "1.95";

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ui-tests");

/// Where there is code for GPUs, its cases: the others are the same with it and without, take minutes, and
/// are tried without.
const FOLDER: &str = if cfg!(feature = "cuda") {
    "ui-tests/cuda"
} else {
    "ui-tests"
};

/// The package that uses the crate without its feature `fault-injection`.
const WITHOUT_FEATURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/without-fault-injection");

/// Where the test puts the cases whose errors it has written anew.
const STAGE: &str = "VRAM_UI_STAGE";

#[test]
fn what_must_not_compile_does_not_and_what_should_does() {
    let cases = trybuild::TestCases::new();
    // One case that passes makes trybuild build instead of check, so that constants are evaluated.
    cases.pass(format!("{FOLDER}/pass/*.rs"));
    let compiler = compiler();
    if compiler.starts_with(TEXTS_OF) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for case in self::cases() {
            // The texts name the cases from here.
            cases.compile_fail(case.strip_prefix(root).unwrap());
        }
    } else {
        eprintln!(
            "SKIPPED: the texts of compile errors are those of rustc {TEXTS_OF}, and this is \
             {compiler}; only their codes are compared"
        );
        drop(cases);
        codes_hold_on_this_compiler();
    }
}

#[test]
fn every_case_names_one_error_and_its_stderr_has_that_and_no_other() {
    for case in cases() {
        let stderr = case.with_extension("stderr");
        assert_named_error(&case, &fs::read_to_string(stderr).unwrap());
    }
}

#[test]
fn no_stderr_is_left_without_its_case() {
    let cuda = files(&Path::new(CASES).join("cuda"), "stderr");
    for path in files(Path::new(CASES), "stderr").into_iter().chain(cuda) {
        assert!(path.with_extension("rs").exists(), "{}", path.display());
    }
}

/// Builds copies of the cases, lets trybuild write their errors anew, and looks for the codes. In a
/// process of its own, because trybuild is told what to do by its environment.
fn codes_hold_on_this_compiler() {
    let stage = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui-tests");
    let _stale = fs::remove_dir_all(&stage);
    fs::create_dir_all(&stage).unwrap();
    for case in cases() {
        fs::copy(&case, stage.join(staged(&case))).unwrap();
    }
    let status = Command::new(env::current_exe().unwrap())
        .args([name_of(staged_cases_do_not_compile), "--exact", "--ignored"])
        .env("TRYBUILD", "overwrite")
        .env(STAGE, &stage)
        .status()
        .unwrap();
    assert!(status.success(), "a case compiled");
    for case in cases() {
        let stderr = stage.join(staged(&case)).with_extension("stderr");
        assert_named_error(&case, &fs::read_to_string(stderr).unwrap());
    }
}

#[test]
#[ignore = "started by the test of another compiler's codes"]
fn staged_cases_do_not_compile() {
    let stage = PathBuf::from(env::var_os(STAGE).expect("started by another test"));
    trybuild::TestCases::new().compile_fail(stage.join("*.rs"));
}

/// The crate's own tests have the feature; a package of its own, which has not, is checked instead.
#[test]
fn without_the_feature_nothing_of_fault_injection_exists() {
    let package = Path::new(WITHOUT_FEATURE);
    let errors = check_without_the_feature();
    for case in files(&package.join("src/bin"), "rs") {
        let name = case.file_stem().unwrap().to_str().unwrap();
        let found = errors.get(name).cloned().unwrap_or_default();
        let expected = match name {
            "right_use" => BTreeSet::new(),
            _ => BTreeSet::from([expected_error(&case)]),
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn every_dangerous_name_is_tried_without_the_feature() {
    let cases: String = files(&Path::new(WITHOUT_FEATURE).join("src/bin"), "rs")
        .iter()
        .map(|case| fs::read_to_string(case).unwrap())
        .collect();
    let mut seen = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = ["src", "trail/src", "digest/src"].map(|folder| sources(&root.join(folder)));
    for source in all.concat() {
        for line in fs::read_to_string(source).unwrap().lines() {
            let Some((_, rest)) = line.trim().split_once("pub fn dangerous_") else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap();
            // The types on which `new` is called cannot be named, which a case of its own shows. The
            // other one injects no fault: an operator may need it, and it is on record.
            if !["new", "ignore_unverifiable_anchor"].contains(&name) {
                assert!(cases.contains(&format!("dangerous_{name}")), "{line}");
            }
            seen += 1;
        }
    }
    assert!(seen > 8, "only {seen} dangerous functions were found");
}

/// The errors of each case.
fn check_without_the_feature() -> BTreeMap<String, BTreeSet<String>> {
    let stage = package::stage("without-fault-injection");
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--bins", "--keep-going"])
        .arg("--message-format=json")
        .arg("--manifest-path")
        .arg(stage.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(stage.join("target"))
        .output()
        .unwrap();
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut errors = BTreeMap::<String, BTreeSet<String>>::new();
    let mut right = false;
    for message in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(message).unwrap();
        let case = message["target"]["name"].as_str().unwrap_or_default();
        right |= message["reason"] == "compiler-artifact" && case == "right_use";
        if message["message"]["level"] == "error"
            && let Some(code) = message["message"]["code"]["code"].as_str()
        {
            errors.entry(case.into()).or_default().insert(code.into());
        }
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(right, "the right use does not compile:\n{stderr}");
    errors
}

/// An error code is compared with the codes of all errors, a lint with the note that names it.
fn assert_named_error(case: &Path, stderr: &str) {
    let expected = expected_error(case);
    let codes: BTreeSet<&str> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("error"))
        .map(|rest| match rest.strip_prefix('[') {
            Some(coded) => coded.split(']').next().unwrap(),
            None if stderr.contains(&format!("#![deny({expected})]")) => &expected,
            None => "an error without a code",
        })
        .collect();
    let name = case.display();
    assert_eq!(codes, BTreeSet::from([&*expected]), "{name}:\n{stderr}");
}

/// What the first line of a case promises.
fn expected_error(case: &Path) -> String {
    let source = fs::read_to_string(case).unwrap();
    source
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//! "))
        .and_then(|line| line.strip_suffix('.'))
        .and_then(|line| line.split_once(" must not compile: "))
        .unwrap_or_else(|| panic!("{} does not begin with what it shows", case.display()))
        .1
        .to_owned()
}

fn cases() -> Vec<PathBuf> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER), "rs")
}

/// The name of a case's copy.
fn staged(case: &Path) -> &OsStr {
    case.file_name().unwrap()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = entries(directory)
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", directory.display());
    files
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    entries(directory)
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path())
}

fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    version.split_whitespace().nth(1).unwrap().to_owned()
}
