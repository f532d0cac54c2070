use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::seal::SealKey;

fn token(byte: u8) -> WorkerToken {
    WorkerToken::new(vec![byte; 32].into()).unwrap()
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn secret_file(directory: &tempfile::TempDir, bytes: &[u8], mode: u32) -> PathBuf {
    let path = directory.path().join("token");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_token_has_at_least_32_bytes() {
    assert!(matches!(
        WorkerToken::new(vec![7; 31].into()),
        Err(KeyError::TokenTooShort { len: 31, min: 32 })
    ));
    assert!(WorkerToken::new(vec![7; 32].into()).is_ok());
    let (a, b) = (
        WorkerToken::generate().unwrap(),
        WorkerToken::generate().unwrap(),
    );
    assert_ne!(a.secret.expose_secret(), b.secret.expose_secret());
}

#[test]
#[cfg_attr(miri, ignore = "modes of files")]
fn a_token_file_must_be_closed_to_others_and_to_the_group_unless_named() {
    let directory = tempfile::tempdir().unwrap();
    for (mode, owner_only, with_group) in [
        (0o600, true, true),
        (0o400, true, true),
        (0o640, false, true),
        (0o440, false, true),
        (0o660, false, true),
        (0o644, false, false),
        (0o604, false, false),
        (0o602, false, false),
    ] {
        let path = secret_file(&directory, &[1; 40], mode);
        let opened = |access| WorkerToken::from_file(&path, access).is_ok();
        assert_eq!(opened(FileAccess::OwnerOnly), owner_only, "{mode:o}");
        assert_eq!(opened(FileAccess::OwnerAndGroup), with_group, "{mode:o}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "modes of files")]
fn a_token_file_may_be_a_link_but_no_pipe_directory_or_large_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = secret_file(&directory, &[9; 4096], 0o400);
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let token = WorkerToken::from_file(&link, FileAccess::OwnerOnly).unwrap();
    assert_eq!(token.secret.expose_secret(), [9; 4096]);

    let pipe = directory.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let read = |path: &Path| WorkerToken::from_file(path, FileAccess::OwnerOnly);
    assert!(matches!(read(&pipe), Err(KeyError::NotAFile { .. })));
    assert!(matches!(
        read(directory.path()),
        Err(KeyError::NotAFile { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(read(&path), Err(KeyError::File { .. })));
    let path = secret_file(&directory, &[9; 4097], 0o400);
    assert!(matches!(
        read(&path),
        Err(KeyError::TooLarge { max: 4096, .. })
    ));
}

/// The expectation comes from Python's standard library:
/// `hmac.digest(hmac.digest(bytes(32), bytes([7])*32, "sha256"), info + b"\x01", "sha256")`
/// with `info = b"vram-residency/1\0seal-tag\0w-1"` is the key, and
/// `hmac.digest(key, b"message", "sha256")` the tag.
#[test]
fn the_seal_key_is_hkdf_of_the_token_with_a_label() {
    let key = SealKey::derive(&token(7), &worker("w-1"));
    assert_eq!(
        hex::encode(key.tag(b"message")),
        "1528585dfe21c0737b6568243f5fd42dbcd449ea7e2422f8973957cec62126b2"
    );
    assert_eq!(key.id().to_string(), "ebb90bc0b1c25479");
    assert!(key.accepts(b"message", &key.tag(b"message")));
    assert!(!key.accepts(b"massage", &key.tag(b"message")));
}

#[test]
fn another_token_or_worker_gives_another_key_and_name() {
    let keys = [(7, "w-1"), (8, "w-1"), (7, "w-2")]
        .map(|(byte, name)| SealKey::derive(&token(byte), &worker(name)));
    for (i, a) in keys.iter().enumerate() {
        for b in keys.iter().skip(i + 1) {
            assert_ne!(a.id(), b.id());
            assert_ne!(a.tag(b""), b.tag(b""));
        }
    }
}

#[test]
fn no_secret_is_in_what_is_printed() {
    let texts = format!(
        "{:?} {:?}",
        token(0xab),
        SealKey::derive(&token(0xab), &worker("w"))
    );
    assert!(
        !texts.contains("abab") && !texts.contains("171, 171"),
        "{texts}"
    );
}
