//! One life in which everything happens, with every log line kept; and then a search through trail,
//! logs and the `Debug` and `Display` texts of every value and error for what must not be there:
//! the token, the keys, addresses of this process, bytes of the model.

use std::error::Error;
use std::fmt::{Debug, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::{self, Place, alone, model};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256, Sha512};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{self, PolicyViolation};
use vram_residency::device::{Culpability, Faults, Operation};
use vram_residency::key::FileAccess;
use vram_residency::seal::Tamper;
use vram_residency::shard::{Allocated, Shard};
use vram_residency::{
    AuditTrail, Host, Lease, Provenance, Stream, TrailKey, VramManager, WorkerId, WorkerToken,
};

const LEN: usize = 600_000;

/// What a reviewer, a log collector or a debugging colleague could come to see.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    fn value(&self, value: &dyn Debug) {
        let mut text = String::new();
        writeln!(text, "{value:?}\n{value:#?}").unwrap();
        self.bytes(text.as_bytes());
    }

    /// With everything that it came from, as an error reporter prints it.
    fn error(&self, error: &(dyn Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(cause) = error.source() {
                let (text, cause) = (error.to_string(), cause.to_string());
                assert!(
                    !text.contains(&cause),
                    "a cause is told twice: {text}: {cause}"
                );
            }
            self.bytes(format!("{error}\n").as_bytes());
            self.value(&error);
            next = error.source();
        }
    }

    fn bytes(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every way in which 16 bytes of a secret could have been written.
fn writings(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for piece in secret.windows(16).step_by(8) {
        let digits = hex::encode(piece);
        let list = format!("{piece:?}");
        let list = list.trim_matches(['[', ']']);
        let upper: Vec<String> = piece.iter().map(|byte| format!("{byte:02X}")).collect();
        all.push(piece.to_vec());
        all.push(digits.to_uppercase().into_bytes());
        all.push(digits.into_bytes());
        all.push(list.as_bytes().to_vec());
        all.push(upper.join(" ").into_bytes());
    }
    // Base64 of something that contains it: at each of the three places in a group.
    for shift in 0..3 {
        let mut padded = vec![0; shift];
        padded.extend_from_slice(secret);
        let text = STANDARD.encode(&padded).into_bytes();
        all.extend(
            text[4..text.len() - 4]
                .windows(20)
                .step_by(12)
                .map(<[u8]>::to_vec),
        );
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return false;
    };
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return true;
        }
        from += at + 1;
    }
    false
}

/// The ranges in which anything of this process can lie.
fn mapped() -> Vec<(u64, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |digits| u64::from_str_radix(digits, 16).unwrap();
        Some((number(start), number(end)))
    });
    ranges.collect()
}

/// Numbers that could be addresses: hexadecimal with 0x, or with exactly twelve digits; decimal
/// with the fifteen digits that the addresses of a 47-bit space have at their upper end.
fn addresses(text: &str, ranges: &[(u64, u64)]) -> Vec<String> {
    let is_mapped = |number: u64| {
        ranges
            .iter()
            .any(|(start, end)| (*start..*end).contains(&number))
    };
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| {
            let hexadecimal = match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None if word.len() == 12 => u64::from_str_radix(word, 16).ok(),
                None => None,
            };
            let decimal = (word.len() == 15).then(|| word.parse().ok()).flatten();
            hexadecimal.into_iter().chain(decimal).any(is_mapped)
        })
        .map(str::to_owned)
        .collect()
}

/// Alone in its process, whose log and whose addresses it looks at.
#[test]
fn no_secret_and_no_address_is_in_trail_logs_debug_or_errors() {
    alone(|_| {
        let seen = Seen::default();
        let writer = seen.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        let place = Place::new();
        let secret: Vec<u8> = (0..48u8)
            .map(|i| i.wrapping_mul(37).wrapping_add(201))
            .collect();
        let bytes: Vec<u8> = (0..LEN).map(|i| (i * i % 251) as u8).collect();

        let views = live(&place, &seen, &secret, &bytes);
        let ranges = mapped();
        for path in support::segments(&place.dir()) {
            seen.bytes(&std::fs::read(path).unwrap());
        }
        let seen = seen.0.lock().unwrap();

        let pem = std::fs::read_to_string(place.temp.path().join("key.pem")).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(der).unwrap();
        let seed = &der[der.len() - 32..];
        let mut seal_key = [0; 32];
        Hkdf::<Sha256>::new(None, &secret)
            .expand(b"vram-residency/1\0seal-tag\0worker-1", &mut seal_key)
            .unwrap();
        for (name, secret) in [
            ("token", &secret[..]),
            ("trail key", seed),
            ("expanded trail key", &Sha512::digest(seed)[..]),
            ("seal key", &seal_key),
            ("model", &bytes[..256]),
        ] {
            for writing in writings(secret) {
                let shown = String::from_utf8_lossy(&writing).into_owned();
                assert!(!contains(&seen, &writing), "{name} is there, as {shown}");
            }
        }
        let text = String::from_utf8_lossy(&seen);
        assert_eq!(addresses(&text, &ranges), Vec::<String>::new());
        for view in views {
            assert!(!text.contains(&format!("{view:x}")) && !text.contains(&view.to_string()));
        }
        the_search_finds_what_is_there(&text, &ranges);
    });
}

/// Or else it would have proven nothing.
fn the_search_finds_what_is_there(text: &str, ranges: &[(u64, u64)]) {
    for expected in [
        "TrailClosed",
        "SealVerificationFailed",
        "ERROR",
        "CRITICAL",
        "WorkerToken(..)",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    let secret: Vec<u8> = (100..148).collect();
    for leak in [
        hex::encode(&secret),
        STANDARD.encode(&secret),
        STANDARD.encode([b"x", &secret[..]].concat()),
        format!("{secret:?}"),
    ] {
        let found = writings(&secret)
            .iter()
            .any(|w| contains(leak.as_bytes(), w));
        assert!(found, "{leak}");
    }
    let local = 0;
    let pointer = &raw const local;
    for leak in [
        format!("at {pointer:?}."),
        format!("{:012x}", pointer.addr()),
    ] {
        assert_eq!(addresses(&leak, ranges).len(), 1, "{leak}");
    }
}

/// Makes everything happen that can, and shows what each value and error says. Returns where the
/// memory of two shards, which live on, lies.
fn live(place: &Place, seen: &Seen, secret: &[u8], bytes: &[u8]) -> Vec<usize> {
    let faults = Faults::dangerous_new();
    let disk = StorageFaults::dangerous_new();
    let token = WorkerToken::new(secret.to_vec().into()).unwrap();
    seen.value(&token);
    seen.value(&place.key());
    let builder = place
        .builder()
        .queue_records(64)
        .dangerous_storage_faults(disk.clone());
    seen.value(&builder);
    let trail = builder.open_or_create().unwrap();
    seen.value(&trail);
    seen.error(&place.builder().open_or_create().unwrap_err());
    let host = Host::dangerous_with_faults(faults.clone());
    let builder = VramManager::builder(host, &token, &trail);
    seen.value(&builder);
    let manager = builder.build().unwrap();
    seen.value(&manager);
    seen.value(&manager.capacity());
    seen.value(&manager.device());
    refused_input(place, seen, &manager);

    let pinned = bring_up(seen, &manager, bytes, "pinned");
    let mut views = vec![pinned.view().as_ptr().addr()];
    seen.value(&pinned);
    seen.value(&pinned.len());
    failures(seen, &manager, &faults, bytes);
    troubles_of_the_disk(seen, &trail, &disk, &manager, bytes);

    let kept = bring_up(seen, &manager, bytes, "kept");
    views.push(kept.view().as_ptr().addr());
    drop(manager);
    let key = trail.verifier_key().clone();
    seen.value(&key);
    let receipt = trail.close().unwrap();
    seen.value(&receipt);
    let report = audit::verify(place.dir(), &[key], &[receipt.checkpoint().clone()]);
    seen.value(&report);
    seen.bytes(report.to_string().as_bytes());
    // Their mappings are to be found among those of the process.
    std::thread::Builder::new()
        .spawn(move || {
            let _alive = (pinned, kept);
            loop {
                std::thread::park();
            }
        })
        .unwrap();
    views
}

/// Whatever a caller can get wrong.
fn refused_input(place: &Place, seen: &Seen, manager: &VramManager<Host>) {
    let long = "x".repeat(300);
    seen.error(&long.parse::<WorkerId>().unwrap_err());
    seen.error(&WorkerToken::new(vec![1; 8].into()).unwrap_err());
    let path = place.temp.path().join("key.pem");
    seen.error(&WorkerToken::from_file(place.temp.path(), FileAccess::OwnerOnly).unwrap_err());
    std::fs::write(path.with_extension("bad"), "no key").unwrap();
    seen.error(&TrailKey::open_or_create(path.with_extension("bad")).unwrap_err());
    for error in [StorageError::NoSpace, StorageError::Unsupported] {
        let elsewhere = Place::new();
        let (builder, disk) = elsewhere.faulty();
        disk.fail(Step::SyncNames, error, 1);
        seen.error(&builder.open_or_create().unwrap_err());
    }
    let elsewhere = Place::new();
    let public = ed25519_dalek::SigningKey::from_bytes(&[5; 32]).verifying_key();
    let key = TrailKey::from_signer(public.to_bytes(), |_| Err("unplugged".into())).unwrap();
    let builder = AuditTrail::builder("worker-1".parse().unwrap(), elsewhere.dir(), key);
    seen.error(&builder.create().unwrap_err());
    for len in [0, u64::MAX, 1 << 36] {
        if let Err(error) = manager.allocate("refused".parse().unwrap(), model(), len) {
            seen.error(&error);
        }
    }
    let mut shard = manager
        .allocate("partial".parse().unwrap(), model(), 10)
        .unwrap();
    seen.value(&shard);
    seen.error(&shard.write_at(5, &[0; 6]).unwrap_err());
    seen.error(&shard.load_from(&[0; 5][..], Stream::TreeOnly).unwrap_err());
    seen.error(&shard.seal(Provenance::UnpinnedFirstUse).unwrap_err());
}

fn load(manager: &VramManager<Host>, bytes: &[u8], id: &str) -> Shard<Allocated, Host> {
    let len = bytes.len() as u64;
    let mut shard = manager.allocate(id.parse().unwrap(), model(), len).unwrap();
    shard.load_from(bytes, Stream::WithSha256).unwrap();
    shard
}

/// Through all states; ends as a lease, which keeps the memory.
fn bring_up(seen: &Seen, manager: &VramManager<Host>, bytes: &[u8], id: &str) -> Lease<Host> {
    let shard = load(manager, bytes, id);
    seen.value(&shard);
    let sealed = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    seen.value(&sealed);
    seen.value(&sealed.handle());
    let verified = sealed.verify().unwrap();
    seen.value(&verified);
    let shared = verified.share();
    seen.value(&shared);
    seen.value(&shared.handle());
    shared.check().unwrap();
    shared.check_window(0..1).unwrap();
    seen.error(&shared.check_window(0..99).unwrap_err());
    shared.lease().unwrap()
}

/// Every way in which a verification can fail.
fn failures(seen: &Seen, manager: &VramManager<Host>, faults: &Faults, bytes: &[u8]) {
    let wrong = "00".repeat(32).parse().unwrap();
    let error = load(manager, bytes, "provenance").seal(Provenance::FsVerity(wrong));
    seen.error(&error.unwrap_err());
    let sealed = |id: &str| {
        load(manager, bytes, id)
            .seal(Provenance::UnpinnedFirstUse)
            .unwrap()
    };
    let mut shard = sealed("tag");
    shard.dangerous_tamper(Tamper::Key);
    seen.error(&shard.verify().unwrap_err());
    let busy = sealed("busy");
    faults.fail(Operation::Digest, 0, Culpability::Inconclusive);
    let error = busy.verify().unwrap_err();
    seen.error(&error);
    faults.fail(Operation::Digest, 0, Culpability::Broken);
    seen.error(&error.into_shard().unwrap().verify().unwrap_err());
    drop(sealed("left").dangerous_open_verification());
    let shared = sealed("shared").verify().unwrap().share();
    let lease = shared.lease().unwrap();
    shared.dangerous_flip_bit(0, 0).unwrap();
    seen.error(&shared.check().unwrap_err());
    seen.error(&shared.check().unwrap_err());
    seen.error(&shared.lease().unwrap_err());
    seen.value(&lease);
    let error = shared.reclaim().unwrap_err();
    seen.error(&error);
    drop(lease);
    let error = error.into_shared().unwrap().reclaim().unwrap_err();
    seen.error(&error);
    faults.fail(Operation::Wipe, 0, Culpability::Broken);
    faults.fail(Operation::Wipe, 0, Culpability::Broken);
    seen.error(&error.into_shared().unwrap_err().release().unwrap_err());
}

fn troubles_of_the_disk(
    seen: &Seen,
    trail: &AuditTrail,
    disk: &StorageFaults,
    manager: &VramManager<Host>,
    bytes: &[u8],
) {
    let shard = load(manager, bytes, "unlucky");
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    shard.dangerous_flip_bit(0, 0).unwrap();
    for step in [Step::Write, Step::Create] {
        disk.fail(step, StorageError::NoSpace, u32::MAX);
    }
    let error = shard.verify().unwrap_err();
    seen.value(error.incident().unwrap());
    seen.error(&error);
    seen.error(&trail.flush().unwrap_err());
    for i in 0..100 {
        if let Err(error) = trail.note(format!("{i}")) {
            seen.error(&error);
        }
    }
    let violation = PolicyViolation {
        policy: "p",
        violation: "v",
        details: "d",
        action: "a",
    };
    seen.value(&violation);
    seen.error(&trail.policy_violation(violation).unwrap_err());
    disk.heal();
    seen.value(&trail.policy_violation(violation).unwrap());
    seen.value(&trail.counts());
}
