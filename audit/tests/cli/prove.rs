//! `prove`, `check-proof` and `anchor`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use vram_residency::TrailKey;
use vram_residency::audit::Checkpoint;

use crate::support::segments;
use crate::{Ended, Trail};

#[test]
fn a_record_is_proven_and_checked_without_the_trail() {
    let trail = Trail::new();
    let shown = trail.run("show trail --json").with(0).out;
    for (seq, line) in [(0, 0), (5, 5)] {
        let proof = trail.run(&format!("prove trail {seq}")).with(0);
        assert!(
            proof.out.starts_with("c2sp.org/tlog-proof@v1\nextra "),
            "{proof:?}"
        );
        trail.write("proof", &proof.out);
        let checked = trail.run("check-proof proof --key @verifier.key").with(0);
        assert_eq!(Some(checked.out.trim_end()), shown.lines().nth(line));
    }
    let by_key = trail.run("prove trail 5 --key @verifier.key").with(0);
    fs::remove_dir_all(trail.place.dir()).unwrap();
    trail.write("proof", &by_key.out);
    let checked = trail.run("check-proof proof --key @verifier.key").with(0);
    assert!(
        checked
            .err
            .contains(&format!("leaf 5 of {}", trail.last.size()))
    );
    let mut piped = trail.command("check-proof - --key @verifier.key");
    let proof = fs::File::open(trail.path("proof")).unwrap();
    assert_eq!(
        piped.stdin(proof).output().unwrap().stdout,
        checked.out.as_bytes()
    );
}

#[test]
fn a_changed_proof_is_status_1_and_prints_no_record() {
    let trail = Trail::new();
    let proof = trail.run("prove trail 5").with(0).out;
    let altered = |from: &str, to: &str| {
        let altered = proof.replacen(from, to, 1);
        assert_ne!(altered, proof);
        altered
    };
    for (wrong, words) in [
        (altered("index 5", "index 6"), "does not lead to the root"),
        (altered("extra ey", "extra ez"), "does not lead to the root"),
        (altered("extra ey", "extra e!"), "not a tlog-proof"),
        (altered("@v1", "@v2"), "not a tlog-proof"),
        (altered("\n\n", "\n"), "not a tlog-proof"),
        (
            altered(&format!("\n{}\n", trail.last.size()), "\n7\n"),
            "signature is wrong",
        ),
        (String::new(), "not a tlog-proof"),
    ] {
        trail.write("proof", &wrong);
        let ended = trail.run("check-proof proof --key @verifier.key").with(1);
        assert!(
            ended.err.contains(words) && ended.out.is_empty(),
            "{ended:?}"
        );
    }
}

/// A socket cannot be opened by a name, as a file or a pipe can.
#[test]
fn a_proof_is_read_from_a_socket() {
    let trail = Trail::new();
    let proof = trail.run("prove trail 5").with(0).out;
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(proof.as_bytes()).unwrap();
    drop(ours);
    let mut check = trail.command("check-proof - --key @verifier.key");
    let checked = Ended::of(check.stdin(OwnedFd::from(theirs)).output().unwrap()).with(0);
    assert!(checked.out.starts_with("{\"seq\":5,"), "{checked:?}");
}

#[test]
fn a_file_that_cannot_be_a_proof_is_status_1() {
    let trail = Trail::new();
    let proof = trail.run("prove trail 5").with(0).out;
    let long = format!("{proof}{}", "x".repeat(2_000_000));
    for (wrong, words) in [
        ([proof.as_bytes(), b"\xff"].concat(), "not text in UTF-8"),
        (long.into_bytes(), "longer than any proof"),
    ] {
        trail.write("proof", &wrong);
        let ended = trail.run("check-proof proof --key @verifier.key").with(1);
        assert!(
            ended.err.contains(words) && ended.out.is_empty(),
            "{ended:?}"
        );
    }
    let endless = trail.run("check-proof /dev/zero --key @verifier.key");
    endless.with(1).says("not a tlog-proof");
}

#[test]
fn a_proof_that_cannot_be_checked_or_made_is_status_2() {
    let trail = Trail::new();
    trail.write("proof", trail.run("prove trail 5").with(0).out);
    let other = TrailKey::open_or_create(trail.path("other.pem")).unwrap();
    let stranger = other
        .verifier_key("vram-residency/other/0000000000000000")
        .unwrap();
    trail
        .run(&format!("check-proof proof --key {stranger}"))
        .with(2)
        .says("no given key");
    trail.run("check-proof missing --key @verifier.key").with(2);
    trail.run("check-proof trail --key @verifier.key").with(2);
    trail.run("prove trail 4000").with(2).says("number 4000");
    trail
        .run(&format!("prove trail 5 --key {stranger}"))
        .with(2)
        .says("number 5");
}

#[test]
fn the_newest_checkpoint_is_the_one_that_vouches_for_the_end() {
    let trail = Trail::new();
    let newest = trail.run("anchor trail").with(0);
    assert_eq!(newest.out.parse::<Checkpoint>().unwrap(), trail.last);
    trail.write("printed", &newest.out);
    trail
        .run("verify trail --key @verifier.key --anchor printed")
        .with(0);

    // A batch that a power cut tore: its checkpoint is signed, its records are gone.
    let last = segments(&trail.place.dir()).pop().unwrap();
    let text = fs::read_to_string(&last).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(
        &last,
        [&lines[..lines.len() - 2], &lines[lines.len() - 1..]]
            .concat()
            .concat(),
    )
    .unwrap();
    let older = trail
        .run("anchor trail")
        .with(0)
        .out
        .parse::<Checkpoint>()
        .unwrap();
    assert!(older.size() < trail.last.size());

    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&last)
        .unwrap();
    file.write_all(lines[0].as_bytes()).unwrap();
    trail.run("anchor trail").with(1).says("verify the trail");
}
