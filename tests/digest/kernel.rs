//! The kernel's source, as C++ on this machine's processor and under the sanitizers, hashes as
//! `fsverity` does: every tail of a block, every change of the tree's shape, many ranges in one launch.
//!
//! Here the source is tested, and that it reads and writes nothing beyond its buffers. What the
//! compiler for GPUs made of it is another matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::skip;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 4096;

/// Blocks below one node.
const FAN_OUT: usize = 128;

#[test]
fn the_source_hashes_as_fsverity_does_and_touches_nothing_else() {
    for tool in ["g++", "fsverity"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return skip(&format!("there is no `{tool}` (a Debian package)"));
        }
    }
    let place = tempfile::tempdir().unwrap();
    let roots = compile(place.path());
    let files: Vec<PathBuf> = lengths().map(|len| write(place.path(), len)).collect();
    let large = write(place.path(), FAN_OUT * FAN_OUT * BLOCK + 1);
    // One thread block for everything, fewer threads than blocks, and more.
    for (grid, files) in [("1", &files[..]), ("9000", &files), ("50", &[large])] {
        let mut fsverity = Command::new("fsverity");
        let expected = run(fsverity.args(["digest", "--compact", "--"]).args(files));
        let roots = run(Command::new(&roots).arg(grid).args(files));
        assert_eq!(roots.lines().count(), files.len());
        for ((file, root), expected) in files.iter().zip(roots.lines()).zip(expected.lines()) {
            let len = fs::metadata(file).unwrap().len();
            let root: [u8; 32] = hex::decode(root).unwrap().try_into().unwrap();
            assert_eq!(digest(len, &root), expected, "{len} bytes, grid of {grid}");
        }
    }
}

/// Every tail, and one block or window more or less.
fn lengths() -> impl Iterator<Item = usize> {
    let window = FAN_OUT * BLOCK;
    (1..=129)
        .chain(BLOCK - 65..=BLOCK + 65)
        .chain([window - 1, window, window + 1, 1_000_000])
}

fn write(place: &Path, len: usize) -> PathBuf {
    let bytes: Vec<u8> = (0..len)
        .map(|i| (i % 11 + i % 439 + i % 1103) as u8)
        .collect();
    let path = place.join(len.to_string());
    fs::write(&path, bytes).unwrap();
    path
}

fn compile(place: &Path) -> PathBuf {
    let program = place.join("roots");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/roots.cpp");
    let checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    run(Command::new("g++")
        .args([
            "-std=c++17",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
            "-Werror",
        ])
        .args(checks)
        .args([source, "-o"])
        .arg(&program));
    program
}

/// What a command prints. What it complains about is shown.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program();
    assert!(output.status.success(), "{program:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The digest of the descriptor, as the kernel's documentation lays it out.
fn digest(len: u64, root: &[u8; 32]) -> String {
    let mut descriptor = [0; 256];
    descriptor[..3].copy_from_slice(&[1, 1, 12]);
    descriptor[8..16].copy_from_slice(&len.to_le_bytes());
    descriptor[16..48].copy_from_slice(root);
    hex::encode(Sha256::digest(descriptor))
}
