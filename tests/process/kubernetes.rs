//! Keys and trails with the owners and modes that Kubernetes gives them: those of
//! `ops/kubernetes.yaml`, as the kubelet applies them.
//!
//! The kubelet's rules (`pkg/volume/volume_linux.go`): every file of a mounted volume gets the group
//! `fsGroup` and `mode | 0660`, of a read-only one (a Secret) `mode | 0440`; every directory gets
//! `| 0110` and the setgid bit, too.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use secrecy::SecretString;
use vram_residency::audit::{AuditTrailBuilder, OpenError, Outcome};
use vram_residency::key::{FileAccess, KeyError};
use vram_residency::{AuditTrail, Host, Provenance, TrailKey, VramManager, WorkerToken};

use crate::support::{
    self, CHILD, Place, VIOLATION, filled, name_of, of_event, only, ran_well, records, skip,
};

const MANIFEST: &str = include_str!("../../ops/kubernetes.yaml");

/// A number of the manifest.
fn setting(name: &str) -> u32 {
    let wanted = format!("{name}:");
    let mut lines = MANIFEST.lines().map(str::trim);
    let line = lines.find(|line| line.starts_with(&wanted)).unwrap();
    let text = line[wanted.len()..].trim();
    match text.strip_prefix('0') {
        Some(octal) => u32::from_str_radix(octal, 8).unwrap(),
        None => text.parse().unwrap(),
    }
}

/// What the kubelet does at a mount.
fn mount(path: &Path, bits: u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    lchown(path, None, Some(setting("fsGroup"))).unwrap();
    if metadata.is_symlink() {
        return;
    }
    let mode = if metadata.is_dir() {
        metadata.mode() | bits | 0o2110
    } else {
        metadata.mode() | bits
    };
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            mount(&entry.unwrap().path(), bits);
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn secret(place: &Path, name: &str) -> PathBuf {
    place.join("secrets").join(name)
}

/// The files of a Secret, with the links through which the kubelet exchanges all of them at once.
fn make_secrets(place: &Path) {
    let secrets = place.join("secrets");
    let data = secrets.join("..2026_01_01");
    fs::create_dir_all(&data).unwrap();
    symlink("..2026_01_01", secrets.join("..data")).unwrap();
    TrailKey::create(data.join("trail-key.pem")).unwrap();
    fs::write(data.join("token"), [7; 32]).unwrap();
    for name in ["trail-key.pem", "token"] {
        let default = Permissions::from_mode(setting("defaultMode"));
        fs::set_permissions(data.join(name), default).unwrap();
        symlink(Path::new("..data").join(name), secrets.join(name)).unwrap();
    }
    for path in [&secrets, &data] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    mount(&secrets, 0o440);
    assert_eq!(mode(&secret(place, "token")), 0o440);
    assert_eq!(fs::metadata(secret(place, "token")).unwrap().uid(), 0);
}

/// Runs the test again as the user and the group of the manifest, and nothing besides.
fn as_the_pod(test: &str, place: &Path) {
    // The directory of this program may be out of the user's reach.
    let program = place.join("test");
    if !program.exists() {
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", &setting("runAsUser").to_string()])
        .args(["--regid", &setting("runAsGroup").to_string()])
        .args(["--groups", &setting("fsGroup").to_string()])
        .args(["--inh-caps=-all", "--no-new-privs"])
        .arg(program)
        .args(only(test))
        .env(CHILD, place)
        .output()
        .unwrap();
    ran_well(&output);
}

/// None: this user cannot be another one, or the tool is not here.
fn pod() -> Option<Place> {
    if !rustix::process::geteuid().is_root() {
        skip("only root can be the user of a pod");
        return None;
    }
    if !support::is_installed("setpriv") {
        return None;
    }
    let place = Place::new();
    fs::set_permissions(place.temp.path(), Permissions::from_mode(0o755)).unwrap();
    make_secrets(place.temp.path());
    // As `mkfs.ext4` makes the root of a volume.
    let volume = place.temp.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, Permissions::from_mode(0o755)).unwrap();
    mount(&volume, 0o660);
    assert_eq!(mode(&volume), 0o2775);
    Some(place)
}

fn builder(place: &Path, dir: &str) -> AuditTrailBuilder {
    let key = TrailKey::from_file(secret(place, "trail-key.pem"), FileAccess::OwnerAndGroup);
    AuditTrail::builder("worker-1".parse().unwrap(), place.join(dir), key.unwrap())
}

fn start(place: &Path) {
    let access = FileAccess::OwnerAndGroup;
    let builder = builder(place, "volume/trail").directory_access(access);
    let trail = builder.open_or_create().unwrap();
    let token = WorkerToken::from_file(secret(place, "token"), access).unwrap();
    let manager = VramManager::builder(Host::new(), &token, &trail)
        .build()
        .unwrap();
    let shard = filled(&manager, "a", 4096);
    let sealed = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    sealed.verify().unwrap().release().unwrap();
    trail.close().unwrap();
}

#[test]
fn a_pod_opens_its_trail_with_the_modes_of_its_mounts_at_every_start() {
    let test = name_of(a_pod_opens_its_trail_with_the_modes_of_its_mounts_at_every_start);
    if let Some(place) = support::child() {
        return start(&place);
    }
    let Some(place) = pod() else { return };
    let place = place.temp.path();
    let trail = place.join("volume/trail");
    as_the_pod(test, place);
    assert_eq!(mode(&trail), 0o2700, "not more than it needs");
    // The volume is mounted again, without `OnRootMismatch`.
    mount(&place.join("volume"), 0o660);
    assert_eq!(mode(&trail), 0o2770);
    assert_eq!(mode(&trail.join("000000.jsonl")), 0o660);
    as_the_pod(test, place);

    let records = records(&trail);
    let opened = of_event(&records, "TrailOpened");
    assert_eq!(opened.len(), 2);
    for opened in opened {
        assert_eq!(opened["key_access"], "owner_and_group");
        assert_eq!(opened["directory_access"], "owner_and_group");
    }
    for sealed in of_event(&records, "VramSealed") {
        assert_eq!(sealed["token_access"], "owner_and_group");
    }
}

/// A volume whose root, or a `subPath` that the kubelet has made, is the trail's directory.
#[test]
fn a_directory_of_roots_and_the_pods_group_takes_a_trail() {
    let test = name_of(a_directory_of_roots_and_the_pods_group_takes_a_trail);
    if let Some(place) = support::child() {
        let owned = builder(&place, "sub").open_or_create().unwrap_err();
        assert!(matches!(owned, OpenError::Permissions { .. }), "{owned}");
        let builder = builder(&place, "sub").directory_access(FileAccess::OwnerAndGroup);
        return builder.open_or_create().unwrap().close().map(drop).unwrap();
    }
    let Some(place) = pod() else { return };
    let sub = place.temp.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::set_permissions(&sub, Permissions::from_mode(0o750)).unwrap();
    mount(&sub, 0o660);
    as_the_pod(test, place.temp.path());
    assert_eq!(fs::metadata(&sub).unwrap().uid(), 0);

    // Of another user than root or its own, a worker takes none, whatever the group.
    chown(&sub, Some(4711), None).unwrap();
    let key = TrailKey::from_file(
        secret(place.temp.path(), "trail-key.pem"),
        FileAccess::OwnerAndGroup,
    );
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &sub, key.unwrap())
        .directory_access(FileAccess::OwnerAndGroup)
        .open()
        .unwrap_err();
    assert!(
        matches!(error, OpenError::Owner { owner: 4711, .. }),
        "{error}"
    );
}

#[test]
fn the_group_is_let_in_by_name_only_and_others_never() {
    let place = Place::new();
    let key = place.temp.path().join("key.pem");
    TrailKey::create(&key).unwrap();
    let dir = place.dir();
    let open = |access| {
        AuditTrail::builder("worker-1".parse().unwrap(), &dir, place.key())
            .directory_access(access)
            .open_or_create()
    };
    open(FileAccess::OwnerOnly).unwrap().close().unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (of_dir, of_key, alone, with_group) in [
        (0o700, 0o600, true, true),
        (0o2700, 0o400, true, true),
        (0o2770, 0o660, false, true),
        (0o750, 0o440, false, true),
        (0o2775, 0o664, false, false),
        (0o701, 0o604, false, false),
        (0o707, 0o602, false, false),
    ] {
        for (access, is_let_in) in [
            (FileAccess::OwnerOnly, alone),
            (FileAccess::OwnerAndGroup, with_group),
        ] {
            set(&key, 0o600);
            set(&dir, of_dir);
            match open(access) {
                Ok(trail) => assert!(trail.close().is_ok() && is_let_in, "{of_dir:o} {access:?}"),
                Err(error) => {
                    assert!(!is_let_in, "{of_dir:o} {access:?}: {error}");
                    let text = error.to_string();
                    assert!(text.contains("chmod 0700"), "{text}");
                    let only_the_group = of_dir & 0o007 == 0;
                    assert_eq!(text.contains("OwnerAndGroup"), only_the_group, "{text}");
                }
            }
            set(&key, of_key);
            let opened = TrailKey::from_file(&key, access);
            assert_eq!(opened.is_ok(), is_let_in, "{of_key:o} {access:?}");
            if let Err(error) = opened {
                let text = error.to_string();
                assert!(matches!(error, KeyError::Access { .. }), "{text}");
                let only_the_group = of_key & 0o007 == 0;
                assert_eq!(text.contains("OwnerAndGroup"), only_the_group, "{text}");
            }
        }
    }
}

#[test]
fn a_key_from_memory_signs_as_its_file_does_and_is_on_record_as_such() {
    let place = Place::new();
    let from_file = place.key();
    let pem = fs::read_to_string(place.temp.path().join("key.pem")).unwrap();
    let key = TrailKey::from_pem(&SecretString::from(pem)).unwrap();
    assert_eq!(
        key.verifier_key("some/name").unwrap(),
        from_file.verifier_key("some/name").unwrap()
    );
    let trail = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), key)
        .create()
        .unwrap();
    let verifier = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let report = place.verify(&verifier, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    place.open().close().unwrap();
    let opened = of_event(&place.records(), "TrailOpened");
    assert_eq!(opened[0]["key_access"], "memory");
    assert_eq!(opened[1]["key_access"], "owner_only");
    assert_eq!(opened[0]["directory_access"], "owner_only");

    for text in [
        "",
        "no key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        let error = TrailKey::from_pem(&SecretString::from(text)).unwrap_err();
        assert!(matches!(error, KeyError::MalformedPem), "{error}");
    }
}
