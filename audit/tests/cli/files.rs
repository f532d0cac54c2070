//! `digest`, `key` and `retention`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vram_residency::audit::Retention;

use crate::support::{Place, VIOLATION, is_installed, segments};
use crate::{Ended, Trail, vram_audit};

/// Files of sizes around those of blocks, windows and chunks, and names of every unpleasant kind.
fn files(trail: &Trail) -> Vec<OsString> {
    let dir = trail.path("files");
    fs::create_dir(&dir).unwrap();
    let sizes = [0, 1, 4095, 4096, 4097, 524_288, 1_048_577, 5_000_000];
    let mut names: Vec<OsString> = sizes
        .iter()
        .map(|size| format!("size-{size}").into())
        .collect();
    let unpleasant: [&[u8]; 6] = [
        b"a b",
        b"-x",
        b"back\\slash",
        b"new\nline",
        b"return\r",
        b"not-utf-8-\xff",
    ];
    names.extend(
        unpleasant
            .iter()
            .map(|name| OsStr::from_bytes(name).to_owned()),
    );
    for (index, name) in names.iter().enumerate() {
        let size = sizes.get(index).copied().unwrap_or(100);
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        fs::write(dir.join(name), bytes).unwrap();
    }
    names
        .iter()
        .map(|name| [b"./", name.as_bytes()].concat())
        .map(OsString::from_vec)
        .collect()
}

fn output(mut command: Command, trail: &Trail, names: &[OsString]) -> Vec<u8> {
    let output = command
        .args(names)
        .current_dir(trail.path("files"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn digests_are_printed_as_fsverity_and_sha256sum_print_them() {
    let trail = Trail::new();
    let names = files(&trail);
    if !is_installed("fsverity") || !is_installed("sha256sum") {
        return;
    }
    let mut fsverity = Command::new("fsverity");
    fsverity.arg("digest");
    let verity = output(fsverity, &trail, &names);
    assert_eq!(output(vram_audit(["digest"]), &trail, &names), verity);

    let plain = output(Command::new("sha256sum"), &trail, &names);
    let both = output(vram_audit(["digest", "--sha256sum"]), &trail, &names);
    // Together, both lines have the name as `sha256sum` writes it, so that each is one line.
    let mut expected = Vec::new();
    let mut rest = verity.as_slice();
    for (name, line) in names
        .iter()
        .zip(plain.split_inclusive(|byte| *byte == b'\n'))
    {
        let (digest, next) = rest.split_at("sha256:".len() + 64 + 1);
        rest = &next[name.len() + 1..];
        let mark = usize::from(line[0] == b'\\');
        let parts = [&line[..mark], digest, &line[mark + 64 + 2..], line];
        parts
            .iter()
            .for_each(|part| expected.extend_from_slice(part));
    }
    assert!(rest.is_empty());
    assert_eq!(
        String::from_utf8_lossy(&both),
        String::from_utf8_lossy(&expected)
    );
}

/// A name can be the line of another file behind a newline.
#[test]
fn sha256sum_believes_no_line_that_a_name_has_forged() {
    let trail = Trail::new();
    let dir = trail.path("files");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("good"), "x").unwrap();
    let forged = format!("trap\n{:064}  good", 0);
    fs::write(dir.join(&forged), "y").unwrap();
    let names = [OsString::from(&forged), OsString::from("good")];
    let both = output(vram_audit(["digest", "--sha256sum"]), &trail, &names);
    let both = String::from_utf8(both).unwrap();
    assert_eq!(both.lines().count(), 4, "{both}");
    if !is_installed("sha256sum") {
        return;
    }
    // As in the example of the help.
    let mut check = Command::new("sh");
    check.args([
        "-c",
        r#""$0" digest --sha256sum "$@" | grep -v '^\\*sha256:' | sha256sum --check --strict"#,
        env!("CARGO_BIN_EXE_vram-audit"),
    ]);
    let checked = output(check, &trail, &names);
    let checked = String::from_utf8(checked).unwrap();
    assert_eq!(checked.lines().count(), 2, "{checked}");
    assert!(checked.lines().all(|line| line.ends_with(": OK")));
    assert!(
        trail
            .run("digest --help")
            .with(0)
            .out
            .contains(r"grep -v '^\\*sha256:' | sha256sum --check")
    );
}

#[test]
fn a_digest_is_out_before_the_next_file_is_read() {
    let trail = Trail::new();
    let mut child = trail
        .command("digest anchor.txt /dev/stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (line, first) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        for text in BufReader::new(stdout).lines() {
            line.send(text.unwrap()).unwrap();
        }
    });
    // The second file has no end until we close it.
    let told = first.recv_timeout(Duration::from_secs(60));
    drop(child.stdin.take());
    assert!(told.unwrap().ends_with(" anchor.txt"));
    assert!(first.recv().unwrap().ends_with(" /dev/stdin"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    reader.join().unwrap();
}

#[test]
fn a_file_that_was_not_read_is_status_2_although_nobody_listens() {
    let trail = Trail::new();
    trail.write("good", "x");
    for (words, code) in [
        ("digest missing good", 2),
        ("digest good missing", 2),
        ("digest good", 0),
    ] {
        let (nobody, output) = io::pipe().unwrap();
        drop(nobody);
        let status = trail.command(words).stdout(output).status().unwrap();
        assert_eq!(status.code(), Some(code), "{words}");
    }
}

#[test]
fn a_key_without_its_origin_is_told_both_ways_to_name_it() {
    let trail = Trail::new();
    trail
        .run("key key.pem")
        .with(2)
        .says("<--trail <DIR>|--origin <NAME>>");
    trail
        .run("key key.pem --trail trail --origin x")
        .with(2)
        .says("cannot be used with");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_printed() {
    let trail = Trail::new();
    trail.write("good", "x");
    let ended = trail.run("digest missing good trail").with(2);
    assert_eq!(ended.out.lines().count(), 1);
    assert!(ended.out.ends_with(" good\n"));
    assert!(
        ended.err.contains("vram-audit: missing: ") && ended.err.contains("vram-audit: trail: ")
    );
}

#[test]
fn the_verifier_key_is_printed_and_one_that_the_trail_does_not_name_is_status_1() {
    let trail = Trail::new();
    let printed = trail.run("key key.pem --trail trail").with(0);
    assert_eq!(printed.out, format!("{}\n", trail.key));
    let origin = trail.key.name();
    let printed = trail.run(&format!("key key.pem --origin {origin}")).with(0);
    assert_eq!(printed.out, format!("{}\n", trail.key));
    let other = Place::new();
    drop(other.key());
    let other = other.temp.path().join("key.pem");
    let other = other.display();
    trail
        .run(&format!("key {other} --trail trail"))
        .with(1)
        .says("not signed with this key");
    for wrong in [
        "key missing.pem --trail trail".to_owned(),
        "key verifier.key --trail trail".to_owned(),
        "key trail --trail trail".to_owned(),
        "key key.pem --origin a+b".to_owned(),
    ] {
        assert!(trail.run(&wrong).with(2).out.is_empty());
    }
    assert!(!trail.path("missing.pem").exists(), "a key was made");
    fs::set_permissions(trail.path("key.pem"), Permissions::from_mode(0o644)).unwrap();
    trail
        .run("key key.pem --trail trail")
        .with(2)
        .says("chmod 600");
}

/// A trail of four small segments that are to be kept for six months.
fn retained() -> (Trail, Vec<String>) {
    let mut trail = Trail::new();
    trail.place = Place::new();
    let retention = Retention::months(6, "a test");
    let builder = trail
        .place
        .builder()
        .segment_bytes(4096)
        .retention(retention);
    let open = builder.open_or_create().unwrap();
    while segments(&trail.place.dir()).len() < 4 {
        open.policy_violation(VIOLATION).unwrap();
    }
    open.close().unwrap();
    let names = segments(&trail.place.dir());
    let names = names
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap());
    let names = names.map(|name| format!("trail/{name}")).collect();
    (trail, names)
}

#[test]
fn only_the_oldest_segments_whose_period_is_over_may_go_and_never_the_last() {
    let (trail, names) = retained();
    let before = segments(&trail.place.dir());
    let at = |date: &str| trail.run(&format!("retention trail --at {date}")).with(0);
    assert_eq!(at("2000-01-01").out, "");
    let all = at("2200-01-01");
    let listed: Vec<&str> = all.out.lines().collect();
    assert_eq!(listed, names[..names.len() - 1]);
    assert!(
        all.err.contains("P6M") && all.err.contains("(a test)"),
        "{}",
        all.err
    );
    assert!(all.err.contains("a trail needs its last segment"));
    assert_eq!(
        segments(&trail.place.dir()),
        before,
        "something was removed"
    );
}

/// The newest record counts, to the nanosecond, and calendar months do.
#[test]
fn a_segment_may_go_when_its_period_has_passed_since_its_newest_record() {
    let (trail, names) = retained();
    let path = trail.place.temp.path().join(&names[0]);
    let text = fs::read_to_string(&path).unwrap();
    let year = text.split("\"time\":\"").nth(1).unwrap()[..4].to_owned();
    let text = text.replace(&format!("\"time\":\"{year}-"), "\"time\":\"2001-");
    // One record in the middle is newer than the last one, as after a clock that was set back.
    let stamp = |text: &str| text.split("\"time\":\"").nth(3).unwrap()[..30].to_owned();
    let newest = stamp(&text);
    let text = text.replacen(&newest, "2020-08-31T10:00:00.000000000Z", 1);
    fs::write(&path, text).unwrap();
    let at = |date: &str| {
        trail
            .run(&format!("retention trail --at {date}"))
            .with(0)
            .out
    };
    assert_eq!(at("2021-02-28T09:59:59Z"), "");
    assert_eq!(at("2021-02-28T10:00:00Z"), format!("{}\n", names[0]));
}

#[test]
fn a_segment_without_a_statement_or_with_damage_stays_with_all_behind_it() {
    let (trail, names) = retained();
    trail.tamper(1, "\"retention\":", "\"intention\":");
    let ended = trail.run("retention trail --at 2200-01-01").with(0);
    assert_eq!(ended.out, format!("{}\n", names[0]));
    assert!(
        ended
            .err
            .contains("000001.jsonl stays: its header does not say"),
        "{}",
        ended.err
    );
    trail.tamper(0, "{\"seq\":2", "{\"sex\":2");
    let ended = trail.run("retention trail --at 2200-01-01").with(0);
    assert_eq!(ended.out, "");
    assert!(ended.err.contains("cannot be read"), "{}", ended.err);
    for period in ["P0M", "P-6M", "P1D", "forever", "P99999Y"] {
        let (trail, _) = retained();
        trail.tamper(0, "P6M", period);
        let ended = trail.run("retention trail --at 2200-01-01").with(0);
        assert!(
            ended.out.is_empty() && ended.err.contains("not one of years or months"),
            "{period}: {ended:?}"
        );
    }
}

#[test]
fn nothing_is_listed_behind_a_segment_that_is_missing() {
    let (trail, names) = retained();
    fs::remove_file(&segments(&trail.place.dir())[1]).unwrap();
    let ended = trail.run("retention trail --at 2200-01-01").with(0);
    assert_eq!(ended.out, format!("{}\n", names[0]));
    assert!(
        ended
            .err
            .contains("000002.jsonl stays: 000001.jsonl before it is missing"),
        "{ended:?}"
    );
}

#[test]
fn a_basis_writes_no_line_of_its_own() {
    let (trail, _) = retained();
    trail.tamper(0, "\"a test\"", "\"a test)\\nvram-audit: FORGED\"");
    let ended = trail.run("retention trail --at 2200-01-01").with(0);
    assert!(ended.err.contains("a test)\\nvram-audit: FORGED"));
    assert!(
        !ended
            .err
            .lines()
            .any(|line| line.starts_with("vram-audit: FORGED")),
        "{ended:?}"
    );
}

#[test]
fn a_path_need_not_be_text() {
    let trail = Trail::new();
    let place = trail.place.temp.path();
    let name = OsString::from_vec(b"tr\xffil".to_vec());
    fs::rename(trail.place.dir(), place.join(&name)).unwrap();
    let run = |words: &[&str], last: &[&str]| {
        let mut command = vram_audit(words);
        command.arg(&name).args(last).current_dir(place);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), output.stdout)
    };
    assert_eq!(
        run(
            &["verify", "--key", "@verifier.key", "--anchor", "anchor.txt"],
            &[]
        )
        .0,
        0
    );
    assert_eq!(run(&["show"], &[]).0, 0);
    assert_eq!(run(&["prove"], &["3"]).0, 0);
    assert_eq!(run(&["anchor"], &[]).0, 0);
    let (code, listed) = run(&["retention", "--at", "2200-01-01"], &[]);
    assert_eq!(code, 0);
    assert!(listed.starts_with(b"tr\xffil/000000.jsonl\n"));
    let missing = Ended::of({
        let mut command = vram_audit(["show"]);
        command
            .arg(OsString::from_vec(b"\xff\x1b".to_vec()))
            .output()
            .unwrap()
    });
    assert!(missing.with(2).err.contains("\\u{1b}"));
}
