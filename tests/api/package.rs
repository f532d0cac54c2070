//! Packages beside the crate, for programs that a test of its own cannot be: without a feature, or of
//! another edition. Cargo is the caller's to run.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies the package `tests/NAME`, so that the checkout stays as it is, with the crate's own lock file:
/// nothing has to be downloaded that the crate's build has not.
pub fn stage(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = root.join("tests").join(name);
    let stage = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _stale = fs::remove_dir_all(stage.join("src"));
    copy_sources(&package.join("src"), &stage.join("src"));
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("\"../..\"", &format!("{root:?}"));
    fs::write(stage.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), stage.join("Cargo.lock")).unwrap();
    stage
}

fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_sources(&path, &copy),
            false => drop(fs::copy(&path, &copy).unwrap()),
        }
    }
}
