use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use ed25519_dalek::Signer;

use super::*;

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
#[cfg_attr(miri, ignore = "modes of files")]
fn a_trail_key_is_made_once_with_mode_600_and_read_by_openssl() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trail.pem");
    let first = TrailKey::open_or_create(&path).unwrap();
    let again = TrailKey::open_or_create(&path).unwrap();
    assert_eq!(first.verifying_key(), again.verifying_key());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

    let Ok(output) = Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&path)
        .output()
    else {
        eprintln!("SKIPPED: no openssl here");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.ends_with(first.verifying_key().as_bytes()));
}

#[test]
#[cfg_attr(miri, ignore = "modes of files")]
fn a_trail_key_file_open_to_others_or_without_a_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trail.pem");
    TrailKey::open_or_create(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        TrailKey::open_or_create(&path),
        Err(KeyError::Access {
            mode: 0o640,
            advice: 0o600,
            ..
        })
    ));
    let path = secret_file(&directory, b"no key", 0o600);
    assert!(matches!(
        TrailKey::open_or_create(path),
        Err(KeyError::Malformed { .. })
    ));
    assert!(matches!(
        TrailKey::open_or_create(directory.path().join("absent/key.pem")),
        Err(KeyError::NoDirectory { .. })
    ));
}

#[test]
#[cfg_attr(miri, ignore = "modes of files")]
fn processes_that_race_for_a_key_end_with_the_same_one() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let path = directory.path().join(format!("{round}.pem"));
        let start = std::sync::Barrier::new(4);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let racers = [(); 4].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    TrailKey::open_or_create(&path).unwrap().verifying_key()
                })
            });
            racers.map(|racer| racer.join().unwrap()).into()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 50);
}

#[test]
#[cfg_attr(miri, ignore = "signs too much")]
fn a_supplied_signature_is_verified_before_it_is_used() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let public = key.verifying_key();
    let mut good = TrailKey::from_signer(public.to_bytes(), move |message| {
        Ok(key.sign(message).to_bytes())
    })
    .unwrap();
    let signature = good.sign(b"root").unwrap();
    assert!(public.verify_strict(b"root", &signature).is_ok());

    let mut wrong = TrailKey::from_signer(public.to_bytes(), |_| Ok([1; 64])).unwrap();
    assert!(matches!(wrong.sign(b"root"), Err(SignError::Wrong)));
    let mut gone = TrailKey::from_signer(public.to_bytes(), |_| Err("unplugged".into())).unwrap();
    assert!(matches!(gone.sign(b"root"), Err(SignError::Failed(_))));
    // The neutral element: a public key of small order.
    let mut weak = [0; 32];
    weak[0] = 1;
    assert!(matches!(
        TrailKey::from_signer(weak, |_| Ok([0; 64])),
        Err(KeyError::PublicKey)
    ));
}

#[test]
#[cfg_attr(miri, ignore = "flags of opening a file")]
fn no_secret_is_in_what_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trail.pem");
    let key = TrailKey::open_or_create(&path).unwrap();
    let Kind::Here(local) = &key.kind else {
        unreachable!()
    };
    let texts = format!(
        "{:?} {:?} {key:?}",
        token(0xab),
        SealKey::derive(&token(0xab), &worker("w"))
    );
    assert!(!texts.contains(&hex::encode(local.secret())), "{texts}");
    assert!(
        !texts.contains("abab") && !texts.contains("171, 171"),
        "{texts}"
    );
}
