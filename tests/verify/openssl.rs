//! The evidence without us: OpenSSL verifies a checkpoint of a real run, Go's checksum-database
//! packages open every checkpoint and check the proof of every record, and a script that shares
//! nothing with the library recomputes the Merkle roots of a real trail; all refuse altered ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cosign::{Witness, line, with_lines};
use crate::support::{Place, is_installed, manager, sealed, segments, skip};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{Checkpoint, Proof, VerifierKey, prove};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// A trail of several segments: a worker that came back, an incident, a segment given up.
fn run(place: &Place) -> (VerifierKey, Checkpoint) {
    let faults = StorageFaults::dangerous_new();
    let builder = place.builder().dangerous_storage_faults(faults.clone());
    let trail = builder.open_or_create().unwrap();
    let shard = sealed(&manager(&trail), "a", 600_000);
    for i in 0..300 {
        trail.note(format!("note {i}")).unwrap();
    }
    trail.flush().unwrap();
    faults.fail(Step::Sync, StorageError::Io, 1);
    shard.dangerous_flip_bit(0, 0).unwrap();
    assert!(
        shard
            .verify()
            .unwrap_err()
            .incident()
            .unwrap()
            .record()
            .is_ok()
    );
    trail.close().unwrap();

    let trail = place.open();
    let key = trail.verifier_key().clone();
    drop(sealed(&manager(&trail), "a", 600_000).verify().unwrap());
    let receipt = trail.close().unwrap();
    assert_eq!(segments(&place.dir()).len(), 3);
    (key, receipt.checkpoint().clone())
}

#[test]
fn openssl_verifies_the_last_checkpoint_and_refuses_an_altered_one() {
    if !is_installed("openssl") {
        return;
    }
    let place = Place::new();
    let (key, last) = run(&place);
    let [text, signature, pem] = ["checkpoint.txt", "checkpoint.sig", "verifier.pem"]
        .map(|name| place.temp.path().join(name));
    std::fs::write(&pem, key.to_pem()).unwrap();
    let check = |signed: &[u8], by: &[u8]| -> Output {
        std::fs::write(&text, signed).unwrap();
        std::fs::write(&signature, by).unwrap();
        Command::new("sh")
            .arg(script("verify_checkpoint.sh"))
            .args([&text, &signature, &pem])
            .output()
            .unwrap()
    };
    let signed = last.signed_text();
    let good = check(signed.as_bytes(), &last.signature());
    assert!(good.status.success(), "{good:?}");

    // The size of the tree is the second line; one leaf more is another statement.
    let longer = signed.replacen(
        &format!("\n{}\n", last.size()),
        &format!("\n{}\n", last.size() + 1),
        1,
    );
    assert_ne!(longer, signed);
    assert!(!check(longer.as_bytes(), &last.signature()).status.success());
    for byte in 0..signed.len() {
        if byte % 16 == 0 {
            let mut altered = signed.as_bytes().to_vec();
            altered[byte] ^= 1;
            assert!(
                !check(&altered, &last.signature()).status.success(),
                "byte {byte}"
            );
        }
    }
    let mut altered = last.signature();
    altered[63] ^= 0x01;
    assert!(!check(signed.as_bytes(), &altered).status.success());

    let other = Place::new();
    let stranger = other.open().verifier_key().to_pem();
    std::fs::write(&pem, stranger).unwrap();
    assert!(!check(signed.as_bytes(), &last.signature()).status.success());
}

#[test]
fn a_script_of_its_own_reads_a_real_trail_and_sees_what_was_changed() {
    if !is_installed("openssl") || !is_installed("python3") {
        return;
    }
    let place = Place::new();
    let (key, last) = run(&place);
    let anchor = place.temp.path().join("anchor");
    std::fs::write(&anchor, last.to_string()).unwrap();
    let check = |with_anchor: bool| -> (bool, String) {
        let mut command = Command::new("python3");
        command
            .arg(script("verify_trail.py"))
            .arg(place.dir())
            .arg(key.to_string());
        if with_anchor {
            command.arg(&anchor);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), told)
    };
    let (holds, told) = check(true);
    assert!(holds && told.starts_with("SOUND"), "{told}");
    let (holds, told) = check(false);
    assert!(
        !holds && told.starts_with("HOLDS, BUT LACKS:\n  end\n"),
        "{told}"
    );

    for path in segments(&place.dir()) {
        let intact = std::fs::read(&path).unwrap();
        // One bit of the first record; then a record gone.
        let mut altered = intact.clone();
        let at = altered.windows(9).position(|w| w == b"\"worker-1").unwrap();
        altered[at + 1] ^= 0x02;
        let mut lines: Vec<&[u8]> = intact.split_inclusive(|byte| *byte == b'\n').collect();
        let second = lines[1..]
            .iter()
            .position(|line| line.starts_with(b"{\"seq"));
        lines.remove(1 + second.unwrap());
        for tampered in [altered, lines.concat()] {
            std::fs::write(&path, tampered).unwrap();
            let (holds, told) = check(true);
            assert!(
                !holds && told.starts_with("BROKEN"),
                "{}: {told}",
                path.display()
            );
        }
        std::fs::write(&path, intact).unwrap();
    }
    assert!(check(true).0);
}

/// Where Debian's `golang-golang-x-mod-dev` puts the sources.
const GO_PATH: &str = "/usr/share/gocode";

/// Builds `tests/go/sumdb.go` from Debian's packages, without a network.
fn sumdb(place: &Place) -> Option<PathBuf> {
    if !is_installed("go") {
        return None;
    }
    if !Path::new(GO_PATH)
        .join("src/golang.org/x/mod/sumdb")
        .exists()
    {
        skip("`golang-golang-x-mod-dev` is not installed");
        return None;
    }
    let program = place.temp.path().join("sumdb");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(script("go/sumdb.go"))
        .envs([
            ("GO111MODULE", "off"),
            ("GOPATH", GO_PATH),
            ("CGO_ENABLED", "0"),
        ])
        .env("GOCACHE", place.temp.path().join("go-cache"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    Some(program)
}

#[test]
fn go_opens_every_checkpoint_and_checks_the_proof_of_every_record() {
    let place = Place::new();
    let (key, last) = run(&place);
    let Some(program) = sumdb(&place) else {
        return;
    };
    let check = |key: &VerifierKey, proofs: &[PathBuf]| -> Output {
        Command::new(&program)
            .arg(key.to_string())
            .args(segments(&place.dir()))
            .arg("--")
            .args(proofs)
            .output()
            .unwrap()
    };
    let mut proofs = Vec::new();
    for seq in 0..last.size() {
        let proof = prove(place.dir(), std::slice::from_ref(&key), seq).unwrap();
        let path = place.temp.path().join(format!("{seq}.tlog-proof"));
        std::fs::write(&path, proof.to_string()).unwrap();
        proofs.push(path);
    }
    let lines: Vec<String> = segments(&place.dir())
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let checkpoints = lines
        .iter()
        .filter(|line| line.starts_with("{\"checkpoint\":"));
    let told = format!(
        "{} checkpoints, {} proofs\n",
        checkpoints.count(),
        proofs.len()
    );
    let good = check(&key, &proofs);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(String::from_utf8_lossy(&good.stdout), told);

    // Every line of a proof counts: one character of each, changed.
    let intact = std::fs::read_to_string(&proofs[100]).unwrap();
    let altered = place.temp.path().join("altered");
    let mut offset = 0;
    for line in intact.split_inclusive('\n') {
        if line.len() > 1 {
            let mut bytes = intact.clone().into_bytes();
            let at = offset + line.len() / 2;
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            std::fs::write(&altered, bytes).unwrap();
            let refused = check(&key, std::slice::from_ref(&altered));
            assert_eq!(refused.status.code(), Some(1), "{line}");
        }
        offset += line.len();
    }
    let stranger = Place::new().open().verifier_key().clone();
    assert_eq!(check(&stranger, &[]).status.code(), Some(1));

    // And so does every checkpoint of the trail.
    let segment = &segments(&place.dir())[1];
    let text = std::fs::read_to_string(segment).unwrap();
    let at = text.rfind("\\n\\n").unwrap() - 5;
    let mut bytes = text.into_bytes();
    bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
    std::fs::write(segment, bytes).unwrap();
    assert_eq!(check(&key, &[]).status.code(), Some(1));
}

/// Go's implementation of signed notes is the judge of what a note with signatures of others is.
#[test]
fn go_opens_what_others_have_signed_too_and_refuses_what_we_refuse() {
    let place = Place::new();
    let (key, last) = run(&place);
    let Some(program) = sumdb(&place).filter(|_| is_installed("openssl")) else {
        return;
    };
    let keys = std::slice::from_ref(&key);
    let witness = Witness::new(place.temp.path(), "witness.example/w1");
    let cosignature = witness.cosign(&last);
    let proof = prove(place.dir(), keys, 7).unwrap().to_string();
    let path = place.temp.path().join("cosigned.tlog-proof");
    let agree = |keys_for_go: String, before: &str, behind: &str| {
        let text = proof.replace(&last.to_string(), &with_lines(&last, before, behind));
        std::fs::write(&path, &text).unwrap();
        let go = Command::new(&program)
            .args([keys_for_go.as_str(), "--"])
            .arg(&path)
            .output()
            .unwrap();
        let ours = text
            .parse::<Proof>()
            .and_then(|proof| proof.check(keys).map(str::len));
        assert_eq!(go.status.success(), ours.is_ok(), "{go:?}: {ours:?}");
        ours.is_ok()
    };
    let alone = key.to_string();
    let both = format!("{key},{}", witness.verifier_key());
    let ml_dsa = line("witness.example/ml-dsa", &[7; 2428]);
    let forged = {
        let own = last.to_string().lines().last().unwrap().to_owned();
        let tail = own.len() - 12;
        format!("{}AAAAAAAA{}\n", &own[..tail], &own[tail + 8..])
    };
    for (keys_for_go, before, behind, good) in [
        (&both, "", &cosignature[..], true),
        (&both, &cosignature, &ml_dsa, true),
        (&alone, &cosignature, &ml_dsa, true),
        (&alone, &ml_dsa.repeat(50), &cosignature.repeat(49), true),
        (
            &alone,
            &line(key.name(), &[9; 2428]),
            &line("w", &[1; 5]),
            true,
        ),
        (&alone, &forged, "", false),
        (&alone, "", &forged, true),
        (&alone, &line("w", &[1; 4]), "", false),
        (&alone, "", &line("w+w", &[1; 68]), false),
        (&alone, "", "\u{2014} w\n", false),
        (&alone, "", "\n", false),
        (&alone, "", "w\n", false),
    ] {
        assert_eq!(
            agree(keys_for_go.clone(), before, behind),
            good,
            "{before}{behind}"
        );
    }
}
