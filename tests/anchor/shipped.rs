//! The anchors that come with the crate, against other sides that behave, and others that do not.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vram_residency::audit::{Anchor, Checkpoint, Listing, OpenError, SameHostCopy};

use crate::server::{Manner, Server};
use crate::support::{Place, VIOLATION, child, name_of, of_event, skip};
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
            let words: String = format!("{manner:?}").chars().take(60).collect();
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
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"checkpoint\":\"vram-resid")).unwrap();
    let last = trail.close().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&whole), "nothing is taken out of it");
    let kept = lines(&text);
    assert_eq!(kept.last(), Some(last.checkpoint()));
    assert_eq!(kept.len(), lines(&whole).len() + 1);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let report = place.verify(&key, &kept);
    assert!(report.end_vouched_for, "{report}");
}

/// The checkpoints in the file of a `SameHostCopy`.
fn lines(text: &str) -> Vec<Checkpoint> {
    let checkpoint = |line| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["checkpoint"].as_str().unwrap().parse().unwrap()
    };
    text.lines().map(checkpoint).collect()
}

/// Version 0.1 kept the text of one checkpoint, and replaced it.
#[test]
fn a_file_of_version_0_1_is_gone_on_with() {
    let place = Place::new();
    let path = place.temp.path().join("copy");
    let older = place.open().close().unwrap();
    let text = older.checkpoint().to_string();
    std::fs::write(&path, &text).unwrap();
    let mut copy = SameHostCopy::new(&path);
    let origin = older.checkpoint().origin().to_owned();
    assert_eq!(
        copy.newest(&origin).unwrap().as_ref(),
        Some(older.checkpoint())
    );
    let trail = place.builder().anchor(copy).open().unwrap();
    let last = trail.close().unwrap();
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        lines(now.strip_prefix(&text).unwrap()).last(),
        Some(last.checkpoint())
    );
    let Listing::Known(all) = SameHostCopy::new(&path).checkpoints(&origin, 0).unwrap() else {
        panic!("it can list");
    };
    assert_eq!(
        (all.first(), all.last()),
        (Some(older.checkpoint()), Some(last.checkpoint()))
    );
}

#[test]
fn neither_a_file_nor_a_server_takes_a_second_root_for_a_size() {
    let (place, other) = (Place::new(), Place::new());
    let ours = place.open().close().unwrap();
    let theirs = other.open().close().unwrap();
    let (ours, theirs) = (ours.checkpoint(), theirs.checkpoint());
    assert_eq!(ours.size(), theirs.size());
    let text = theirs.to_string().replace(theirs.origin(), ours.origin());
    let second: Checkpoint = text.parse().unwrap();
    let mut copy = SameHostCopy::new(place.temp.path().join("copy"));
    copy.keep(ours).unwrap();
    let error = copy.keep(&second).unwrap_err().to_string();
    assert!(error.contains("another root"), "{error}");
    let mut server = Server::tcp().anchor();
    server.keep(ours).unwrap();
    let error = server.keep(&second).unwrap_err().to_string();
    assert!(error.contains("another root"), "{error}");
}

#[test]
fn a_server_with_keys_keeps_only_what_they_have_signed() {
    let (place, other) = (Place::new(), Place::new());
    let trail = place.open();
    let server = Server::tcp();
    server.trust(trail.verifier_key());
    let ours = trail.close().unwrap();
    let theirs = other.open().close().unwrap();
    let mut anchor = server.anchor();
    anchor.keep(ours.checkpoint()).unwrap();
    let error = anchor.keep(theirs.checkpoint()).unwrap_err().to_string();
    assert!(
        error.contains("key that is known here has signed it"),
        "{error}"
    );
    assert!(server.all(theirs.checkpoint().origin()).is_empty());
}

#[test]
fn lists_of_a_server_are_in_order_of_this_trail_or_they_are_an_error() {
    let place = Place::new();
    let trail = place.open();
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap().checkpoint().clone();
    let server = Server::tcp();
    server.anchor().keep(&last).unwrap();
    let twice = serde_json::json!({"checkpoints": [last.to_string(), last.to_string()]});
    for answer in [
        twice.to_string(),
        "{\"checkpoints\":[\"x\"]}".into(),
        "{}".into(),
    ] {
        server.behave(Manner::Lists(format!("{answer}\n")));
        let before = of_event(&place.records(), "AnchorFailed").len();
        let before_partly = of_event(&place.records(), "AnchorPartlyCompared").len();
        let trail = place.builder().anchor(server.anchor()).open().unwrap();
        // What is no list at all may be a server that does not know what it is asked.
        until("it goes on record", || {
            let partly = of_event(&place.records(), "AnchorPartlyCompared").len() > before_partly;
            (partly || of_event(&place.records(), "AnchorFailed").len() > before).then_some(())
        });
        drop(trail);
    }
    assert_eq!(
        of_event(&place.records(), "AnchorFailed").len(),
        1,
        "the one that is a list"
    );
}

#[test]
fn a_file_never_goes_back_and_never_forgets_another_trail() {
    let place = Place::new();
    let path = place.temp.path().join("copy");
    let trail = place.open();
    let older = trail.policy_violation(VIOLATION).unwrap();
    let newer = trail.close().unwrap();
    let mut copy = SameHostCopy::new(&path);
    let origin = newer.checkpoint().origin();
    assert_eq!(copy.newest(origin).unwrap(), None);
    copy.keep(newer.checkpoint()).unwrap();
    copy.keep(newer.checkpoint()).unwrap();
    copy.keep(older.checkpoint()).unwrap_err();
    let newest = copy.newest(origin).unwrap();
    assert_eq!(newest.as_ref(), Some(newer.checkpoint()));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines(&text), [newer.checkpoint().clone()], "once");

    // The directory is deleted, and the worker starts as if there had been nothing.
    std::fs::remove_dir_all(place.dir()).unwrap();
    let builder = place.builder().anchor(SameHostCopy::new(&path));
    let error = builder.create().unwrap_err();
    let OpenError::OtherOrigin { origin: known, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(known, origin);
    assert!(error.to_string().contains("new_origin_beside"), "{error}");
    let builder = place.builder().anchor(SameHostCopy::new(&path));
    let trail = builder.new_origin_beside(origin).create().unwrap();
    assert!(of_event(&place.records(), "AnchorFailed").is_empty());
    trail.close().unwrap();
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now.starts_with(&text) && now.len() > text.len());
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
    let test = name_of(a_full_disk_under_the_file_leaves_the_checkpoint_before_it);
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
    let records = || crate::support::records(&place.join("trail"));
    // The last page of the file has room for some more.
    let failed = until("it goes on record", || {
        trail.policy_violation(VIOLATION).unwrap();
        of_event(&records(), "AnchorFailed").pop()
    });
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.contains("os error 28"), "{cause}");
    let text = std::fs::read_to_string(disk.join("copy")).unwrap();
    let (whole, _torn) = text.rsplit_once('\n').unwrap();
    assert_eq!(lines(whole).first(), Some(kept.checkpoint()));
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    until("it recovered", || {
        of_event(&records(), "AnchorRecovered").pop()
    });
    let last = trail.close().unwrap();
    let text = std::fs::read_to_string(disk.join("copy")).unwrap();
    assert!(text.starts_with(whole));
    assert_eq!(lines(&text).last(), Some(last.checkpoint()));
}
