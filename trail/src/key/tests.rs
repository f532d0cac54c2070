use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use ed25519_dalek::Signer;

use super::*;

fn secret_file(directory: &tempfile::TempDir, bytes: &[u8], mode: u32) -> PathBuf {
    let path = directory.path().join("key");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
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
    let text = format!("{key:?}");
    assert!(!text.contains(&hex::encode(local.secret())), "{text}");
}
