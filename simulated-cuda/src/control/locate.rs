//! Finds the driver's file, which cargo builds next to the tests, and makes copies that lack
//! symbols.

use std::path::{Path, PathBuf};

const FILE: &str = "libsimulated_cuda.so";

/// The variable that names the file if it is not next to the test.
const VARIABLE: &str = "SIMULATED_CUDA_LIBRARY";

/// Returns the path of the driver's file.
pub fn library() -> PathBuf {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return path.into();
    }
    let candidates = candidates();
    if let Some(path) = candidates.iter().find(|path| path.is_file()) {
        return path.clone();
    }
    let tried: Vec<String> = candidates
        .iter()
        .map(|path| format!("  {}", path.display()))
        .collect();
    panic!(
        "{FILE} is not beside this test. Cargo builds it when `simulated-cuda` is a dev-dependency of the \
         package under test; if the test was moved, set {VARIABLE} to the file. Tried:\n{}",
        tried.join("\n"),
    );
}

/// Returns the candidate paths. Cargo puts a dev-dependency's libraries beside tests and benches
/// (`deps/`), examples (`examples/`) and binaries; it also sets the search path of libraries.
fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Ok(executable) = std::env::current_exe() {
        for folder in executable.ancestors().skip(1).take(3) {
            folders.push(folder.to_path_buf());
            folders.push(folder.join("deps"));
        }
    }
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&paths));
    }
    folders.iter().map(|folder| folder.join(FILE)).collect()
}

/// Returns a copy of the file in which the symbols are renamed, or the file itself if there are
/// none to hide.
///
/// The caller removes the copy.
pub fn without(path: &Path, symbols: &[&str]) -> PathBuf {
    if symbols.is_empty() {
        return path.to_path_buf();
    }
    let mut bytes =
        std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for symbol in symbols {
        let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let places: Vec<usize> = (0..bytes.len().saturating_sub(name.len()))
            .filter(|at| bytes[*at..].starts_with(&name))
            .collect();
        assert!(
            !places.is_empty(),
            "the simulated driver has no symbol `{symbol}`"
        );
        for at in places {
            bytes[at + 1] = b'_';
        }
    }
    let copy = std::env::temp_dir().join(format!("{}.{FILE}", std::process::id()));
    std::fs::write(&copy, bytes).unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
    copy
}
