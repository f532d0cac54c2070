//! The digest is the one of Linux's fs-verity: published vectors, the `fsverity` tool, and a second
//! implementation written here from the kernel's documentation agree with it at every length where
//! a tree changes its shape.

mod kernel;
#[path = "../support/mod.rs"]
mod support;

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::process::Command;

use sha2::{Digest as _, Sha256};
use vram_residency::digest::{BLOCK_BYTES, Digest, DigestError, Progress, Stopped, StreamDigest};
use vram_residency::digest::{Tree, WINDOW_BYTES};

/// fsverity-utils 1.7, `programs/test_compute_digest.c`: the data, and digests computed by the tool.
const VECTORS: [(usize, &str); 7] = [
    (
        0,
        "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    ),
    (
        1,
        "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
    ),
    (
        4_096,
        "6ac39979016e3ddf3d39fff6cb984f7c118acdf1852919f5c100c4b142c1818e",
    ),
    (
        100_000,
        "f2096a36c5cdca4fa33ee8852833150bb324992e5417a9d571f1bffff73b9efc",
    ),
    (
        524_288,
        "318d7f64c1db10a983346f0c101c5b0fd2cb0e0c3d4e88df0320edf9990bdda4",
    ),
    (
        524_289,
        "e21e7d7f576f210094c3a6ea78b021f036633f2a06119fee987f79ac6dd30cf1",
    ),
    (
        1_000_000,
        "48df0c462329cd879661bd05b39aa81b05cc16afd27a7196a559da83531d39d9",
    ),
];

#[test]
fn published_vectors_hold() {
    for (len, expected) in VECTORS {
        let bytes = data(len);
        assert_eq!(digest_of_slice(&bytes).to_string(), expected, "{len} bytes");
        assert_eq!(reference(&bytes).to_string(), expected, "{len} bytes");
        let digest = Digest::of_reader(&bytes[..]).unwrap();
        assert_eq!(digest.to_string(), expected, "{len} bytes");
    }
}

#[test]
fn every_length_has_the_digest_of_a_second_implementation() {
    let bytes = data(128 * WINDOW_BYTES + 1);
    for len in lengths() {
        let bytes = &bytes[..len];
        let expected = reference(bytes);
        assert_eq!(digest_of_slice(bytes), expected, "{len} bytes");
        assert_eq!(
            Digest::of_reader(bytes).unwrap(),
            expected,
            "{len} bytes read"
        );
    }
}

#[test]
fn every_length_has_the_digest_that_fsverity_prints() {
    if Command::new("fsverity").arg("--version").output().is_err() {
        let wanted = std::env::var_os("VRAM_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!wanted, "VRAM_REQUIRE_TOOLS=1, but there is no `fsverity`");
        eprintln!("SKIPPED: no `fsverity` here (Debian package fsverity)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let bytes = data(128 * WINDOW_BYTES + 1);
    let files: Vec<_> = lengths()
        .map(|len| {
            let path = directory.path().join(len.to_string());
            std::fs::write(&path, &bytes[..len]).unwrap();
            (len, path)
        })
        .collect();
    let output = Command::new("fsverity")
        .args(["digest", "--compact"])
        .args(files.iter().map(|(_, path)| path))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), files.len());
    for ((len, path), line) in files.iter().zip(printed.lines()) {
        let expected = line.split_whitespace().next().unwrap();
        assert_eq!(digest_of_slice(&bytes[..*len]).to_string(), expected);
        let file = std::fs::File::open(path).unwrap();
        assert_eq!(Digest::of_reader(file).unwrap().to_string(), expected);
    }
}

#[test]
fn a_reader_that_gives_little_and_is_interrupted_gives_the_same_digest() {
    struct Dribble<'a>(&'a [u8], usize);
    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let some = buffer.len().min(self.1 * 37 % 5000 + 1);
            self.0.read(&mut buffer[..some])
        }
    }
    let bytes = data(3 * WINDOW_BYTES + 4097);
    let digest = Digest::of_reader(Dribble(&bytes, 0)).unwrap();
    assert_eq!(digest, reference(&bytes));
}

#[test]
fn an_error_of_the_reader_is_returned() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                5 => Err(io::Error::other("the disk is gone")),
                _ => Ok(buffer.len()),
            }
        }
    }
    let error = Digest::of_reader(Broken(0)).unwrap_err();
    assert_eq!(error.to_string(), "the disk is gone");
}

#[test]
fn progress_grows_and_ends_at_the_total() {
    let bytes = data(9 * WINDOW_BYTES + 5);
    let mut seen: Vec<Progress> = Vec::new();
    let tree = Tree::of_slice(&bytes, |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(tree.windows(), 10);
    assert_eq!(tree.len(), bytes.len() as u64);
    assert!(
        seen.iter()
            .all(|progress| progress.total == bytes.len() as u64)
    );
    assert!(seen.is_sorted_by(|one, two| one.done < two.done));
    assert_eq!(seen.last().unwrap().done, bytes.len() as u64);
}

#[test]
fn a_break_stops_and_gives_no_digest() {
    let bytes = data(64 * WINDOW_BYTES);
    let mut calls = 0;
    let stopped = Tree::of_slice(&bytes, |_| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Stopped { .. })));
    assert_eq!(calls, 1);
}

#[test]
fn a_panic_in_the_callback_arrives_at_the_caller() {
    let bytes = data(64 * WINDOW_BYTES);
    let result = std::panic::catch_unwind(|| Tree::of_slice(&bytes, |_| panic!("callback")));
    assert_eq!(
        result.unwrap_err().downcast_ref::<&str>(),
        Some(&"callback")
    );
}

#[test]
fn a_digest_is_64_hexadecimal_digits() {
    let text = "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551";
    let digest: Digest = text.parse().unwrap();
    assert_eq!(digest.to_string(), text);
    assert_eq!(format!("{digest:?}"), format!("Digest({text})"));
    assert_eq!(format!("sha256:{text}").parse(), Ok(digest));
    let json = serde_json::to_string(&digest).unwrap();
    assert_eq!(json, format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    let error = serde_json::from_str::<Digest>("\"00\"").unwrap_err();
    assert!(error.to_string().contains("64"), "{error}");
    assert_eq!(text.to_uppercase().parse(), Ok(digest));
    assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
    let stream: StreamDigest = text.parse().unwrap();
    assert_eq!(stream.to_string(), text);
    for byte in 0..32 {
        let mut bytes = *digest.as_bytes();
        bytes[byte] ^= 0x80;
        assert_ne!(Digest::from_bytes(bytes), digest);
    }
}

#[test]
fn what_is_no_digest_is_refused() {
    let text = "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551";
    let length = |digits| Err::<Digest, _>(DigestError::Length { digits });
    assert_eq!("".parse(), length(0));
    assert_eq!(text[..63].parse(), length(63));
    assert_eq!(text[..62].parse(), length(62));
    assert_eq!(format!("{text}00").parse(), length(66));
    assert_eq!(format!("sha512:{text}").parse(), length(71));
    let digit = Err::<StreamDigest, _>(DigestError::Digit);
    assert_eq!(text.replace('b', "g").parse(), digit);
    assert_eq!(format!(" {}", &text[1..]).parse(), digit);
}

/// Lengths at which a tree changes its shape, and every tail around a block's end.
fn lengths() -> impl Iterator<Item = usize> {
    let block = BLOCK_BYTES;
    let window = 128 * block;
    (0..=129)
        .chain(block - 65..=block + 65)
        .chain([2 * block, 4 * block, 5 * block + 1, 9 * block - 1])
        .chain([window - 1, window, window + 1, 2 * window, 3 * window + 1])
        .chain([128 * window - 1, 128 * window, 128 * window + 1])
}

/// The data of fsverity-utils' test.
fn data(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index % 11 + index % 439 + index % 1103) as u8)
        .collect()
}

fn digest_of_slice(bytes: &[u8]) -> Digest {
    Tree::of_slice(bytes, |_| ControlFlow::Continue(()))
        .unwrap()
        .digest()
}

/// fs-verity as `Documentation/filesystems/fsverity.rst` describes it, level by level, one block
/// after the other.
fn reference(data: &[u8]) -> Digest {
    let mut level = data.to_vec();
    let root: [u8; 32] = loop {
        let blocks = level.chunks(4096).map(|block| {
            let mut padded = [0; 4096];
            padded[..block.len()].copy_from_slice(block);
            <[u8; 32]>::from(Sha256::digest(padded))
        });
        let hashes: Vec<[u8; 32]> = blocks.collect();
        match hashes[..] {
            [] => break [0; 32],
            [root] => break root,
            _ => level = hashes.concat(),
        }
    };
    let mut descriptor = [0; 256];
    descriptor[0] = 1;
    descriptor[1] = 1;
    descriptor[2] = 12;
    descriptor[8..16].copy_from_slice(&(data.len() as u64).to_le_bytes());
    descriptor[16..48].copy_from_slice(&root);
    Digest::from_bytes(Sha256::digest(descriptor).into())
}
