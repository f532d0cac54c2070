//! The anchors that come with the crate, against other sides that behave, and others that do not.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vram_residency::audit::{Anchor, Checkpoint, SameHostCopy};

use crate::server::{Manner, Server};
use crate::support::{Place, VIOLATION, child, of_event, skip};
use crate::until;

#[test]
fn a_server_keeps_the_newest_checkpoint_over_either_kind_of_socket() {
    let place = Place::new();
    for server in [Server::tcp(), Server::unix(&place.temp.path().join("s"))] {
        let trail = place
            .builder()
            .anchor(server.anchor())
            .open_or_create()
            .unwrap();
        let origin = trail.verifier_key().name().to_owned();
        trail.policy_violation(VIOLATION).unwrap();
        let last = trail.close().unwrap();
        let kept = server.newest(&origin).unwrap();
        assert_eq!(kept, *last.checkpoint());
        assert_eq!(server.anchor().newest(&origin).unwrap(), Some(kept));
        assert_eq!(server.anchor().newest("another").unwrap(), None);
    }
    assert!(of_event(&place.records(), "AnchorFailed").is_empty());
}

/// What becomes of one call, told by the anchor itself.
fn told(server: &Server, checkpoint: &Checkpoint, manner: Manner) -> String {
    server.behave(manner);
    let mut anchor = server.anchor();
    let error = anchor.keep(checkpoint).unwrap_err().to_string();
    // `none` is an answer to the other question.
    if !error.contains("none") {
        anchor.newest(checkpoint.origin()).unwrap_err();
    }
    // The same anchor, and the next connection: nothing of the nonsense is left over.
    server.behave(Manner::Honest);
    anchor.keep(checkpoint).unwrap();
    assert_eq!(
        anchor.newest(checkpoint.origin()).unwrap().as_ref(),
        Some(checkpoint)
    );
    error
}

#[test]
fn whatever_a_server_answers_it_is_an_error_within_the_time_and_the_next_call_works() {
    let place = Place::new();
    let checkpoint = place.open().close().unwrap().checkpoint().clone();
    let size = checkpoint.size();
    let unix = place.temp.path().join("s");
    for server in [Server::tcp(), Server::unix(&unix)] {
        let answers = [
            (Manner::Answers(b"ok\n".to_vec()), "no answer"),
            (Manner::Answers(b"ok 1000000\n".to_vec()), "no answer"),
            (Manner::Answers(format!("ok 0{size}\n").into()), "no answer"),
            (Manner::Answers(format!("OK {size}\n").into()), "no answer"),
            (
                Manner::Answers(format!("ok {size}\r\n").into()),
                "no answer",
            ),
            (
                Manner::Answers(format!("ok {size}\nok {size}\n").into()),
                "no answer",
            ),
            (Manner::Answers(b"none\n".to_vec()), "no answer"),
            (Manner::Answers(b"\n".to_vec()), "no answer"),
            // Longer than any line of a checkpoint, with all the signatures that it may have.
            (Manner::Answers(vec![b'x'; 3 << 20]), "no answer"),
            (Manner::Answers(b"\xff\x00\x1b[2J\n".to_vec()), "no answer"),
            (
                Manner::Answers(b"no room left\n".to_vec()),
                "refuses: room left",
            ),
            (Manner::Answers(b"no end of it".to_vec()), "receive: "),
            (Manner::Closes, "receive: "),
            (Manner::Silent, "receive: "),
            (Manner::Drips, "receive: "),
        ];
        for (manner, expected) in answers {
            let words = format!("{manner:.60?}");
            let told = told(&server, &checkpoint, manner);
            assert!(told.contains(expected), "{words}: {told}");
            assert!(
                told.len() < 400 && !told.contains(char::is_control),
                "{told}"
            );
        }
    }
}

#[test]
fn a_server_that_knows_more_refuses_and_a_connection_that_was_cut_is_made_again() {
    let place = Place::new();
    let server = Server::tcp();
    let mut anchor = server.anchor();
    let trail = place.open();
    let older = trail.policy_violation(VIOLATION).unwrap();
    let newer = trail.close().unwrap();
    anchor.keep(newer.checkpoint()).unwrap();
    let error = anchor.keep(older.checkpoint()).unwrap_err();
    assert!(
        error.to_string().contains("a larger one is kept"),
        "{error}"
    );
    // The server ends the connection behind its back.
    server.behave(Manner::Closes);
    anchor.newest("x").unwrap_err();
    server.behave(Manner::Honest);
    anchor.keep(newer.checkpoint()).unwrap();
}

#[test]
fn a_unix_socket_where_nobody_accepts_keeps_nobody_waiting() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

    let place = Place::new();
    let checkpoint = place.open().close().unwrap().checkpoint().clone();
    let path = place.temp.path().join("s");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let _first_in_line = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut anchor =
        vram_residency::audit::SocketAnchor::unix(&path).timeout(Duration::from_millis(100));
    let error = anchor.keep(&checkpoint).unwrap_err();
    assert!(error.to_string().starts_with("connect: "), "{error}");
}

#[test]
fn each_misbehaviour_of_a_server_is_on_record_and_it_recovers() {
    let place = Place::new();
    let server = Server::tcp();
    place.open().close().unwrap();
    for manner in [
        Manner::Answers(b"what?\n".to_vec()),
        Manner::Closes,
        Manner::Drips,
        Manner::Silent,
    ] {
        let before = of_event(&place.records(), "AnchorFailed").len();
        server.behave(manner);
        let trail = place
            .builder()
            .anchor(server.anchor())
            .open_or_create()
            .unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        let failed: Value = until("it goes on record", || {
            of_event(&place.records(), "AnchorFailed")
                .get(before)
                .cloned()
        });
        assert!(
            failed["anchor"]
                .as_str()
                .unwrap()
                .starts_with("tcp:127.0.0.1:")
        );
        server.behave(Manner::Honest);
        until("it recovered", || {
            of_event(&place.records(), "AnchorRecovered")
                .get(before)
                .cloned()
        });
        trail.close().unwrap();
    }
}

#[test]
fn a_file_holds_one_private_checkpoint_at_any_time() {
    let place = Place::new();
    let path = place.temp.path().join("copy");
    let trail = place
        .builder()
        .anchor(SameHostCopy::new(&path))
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    until("it is anchored", || {
        let kept = trail.anchored_until()?;
        (kept.checkpoint() == receipt.checkpoint()).then_some(())
    });
    // What a process left that was killed in the middle.
    std::fs::write(place.temp.path().join("copy.new"), "half of a che").unwrap();
    let last = trail.close().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, last.checkpoint().to_string());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!place.temp.path().join("copy.new").exists());
    let report = place.verify(&key, &[text.parse().unwrap()]);
    assert!(report.end_vouched_for, "{report}");
}

#[test]
fn a_file_never_goes_back_and_never_forgets_another_trail() {
    let place = Place::new();
    let path = place.temp.path().join("copy");
    let trail = place.open();
    let older = trail.policy_violation(VIOLATION).unwrap();
    let newer = trail.close().unwrap();
    let mut copy = SameHostCopy::new(&path);
    assert_eq!(copy.newest("any").unwrap(), None);
    copy.keep(newer.checkpoint()).unwrap();
    copy.keep(newer.checkpoint()).unwrap();
    copy.keep(older.checkpoint()).unwrap_err();
    assert_eq!(
        copy.newest("any").unwrap().as_ref(),
        Some(newer.checkpoint())
    );

    // The directory is deleted, and the worker starts as if there had been nothing.
    std::fs::remove_dir_all(place.dir()).unwrap();
    let trail = place.builder().anchor(copy).open_or_create().unwrap();
    let failed = until("it goes on record", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.contains(newer.checkpoint().origin()), "{cause}");
    trail.close().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, newer.checkpoint().to_string());
}

#[test]
fn a_file_that_is_no_file_or_holds_nonsense_is_left_alone() {
    let place = Place::new();
    let checkpoint = place.open().close().unwrap().checkpoint().clone();
    let at = |name: &str| place.temp.path().join(name);
    let target = at("target");
    std::fs::write(&target, "precious").unwrap();
    symlink(&target, at("link")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for name in ["link", "directory", "pipe", "target", "nowhere/copy", ".."] {
        let mut copy = SameHostCopy::new(at(name));
        copy.keep(&checkpoint).expect_err(name);
        copy.newest("any").expect_err(name);
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    assert!(at("link").is_symlink());
}

#[test]
fn a_full_disk_under_the_file_leaves_the_checkpoint_before_it() {
    let test = "shipped::a_full_disk_under_the_file_leaves_the_checkpoint_before_it";
    if let Some(place) = child() {
        return on_a_full_disk(&place);
    }
    let place = Place::new();
    if let Err(why) = crate::support::on_a_small_disk(test, &place, "disk", "32k") {
        skip(&why);
    }
}

fn on_a_full_disk(place: &Path) {
    let disk = place.join("disk");
    let trail = crate::support::builder_at(place)
        .anchor(SameHostCopy::new(disk.join("copy")))
        .open_or_create()
        .unwrap();
    let kept = until("the opening is anchored", || trail.anchored_until());
    let filler = disk.join("filler");
    // Whatever length fits, and not a byte more.
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    trail.policy_violation(VIOLATION).unwrap();
    let records = || crate::support::records(&place.join("trail"));
    let failed = until("it goes on record", || {
        of_event(&records(), "AnchorFailed").pop()
    });
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.contains("os error 28"), "{cause}");
    let text = std::fs::read_to_string(disk.join("copy")).unwrap();
    assert_eq!(text, kept.checkpoint().to_string());
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    until("it recovered", || {
        of_event(&records(), "AnchorRecovered").pop()
    });
    let last = trail.close().unwrap();
    let text = std::fs::read_to_string(disk.join("copy")).unwrap();
    assert_eq!(text, last.checkpoint().to_string());
}
