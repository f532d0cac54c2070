//! Verifier keys: given with `--key`, or taken from a key's file (`key`).
//!
//! A verifier key is text, so it can stand on the command line, or in a file named with `@`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgGroup;
use vram_trail::TrailKey;
use vram_trail::key::FileAccess;
use vram_trail::{VerifierKey, stated_keys};

use crate::output::{Failure, Out, could_not, tell};

/// The most bytes that are read from a file of verifier keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Print the verifier key of a trail's key file
///
/// A verifier key is what a reviewer needs to check a trail: the public half of the key that signs
/// it, together with the trail's origin, which is its name. The origin is in the trail and not in the
/// key's file, so one of `--trail` and `--origin` is needed.
///
/// This subcommand is the operator's: the file holds the secret key, is read under the same rules as
/// by the worker (it must belong to the caller or root, and be closed to others; its group may have
/// it, as in Kubernetes), and is never created. Hand the printed key to reviewers by a way that the worker's machine has no hand in.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  the key was printed
  1  the trail names other keys than this one
  2  the file or the trail cannot be read

Examples:
  vram-audit key /etc/worker/trail-key.pem --trail /var/lib/worker/trail > verifier.key
  vram-audit verify /var/lib/worker/trail --key @verifier.key")]
#[command(group = ArgGroup::new("name").args(["trail", "origin"]).required(true))]
pub(crate) struct Args {
    /// The key's file: PEM (PKCS#8), closed to others
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A trail that this key signs or has signed: its origin is taken, and its segments must name the
    /// key
    #[arg(long, value_name = "DIR")]
    trail: Option<PathBuf>,
    /// The trail's origin: `vram-residency/WORKER/16 hexadecimal digits`
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
}

/// `--key` of the subcommands that check.
#[derive(clap::Args)]
pub(crate) struct TrustedKeys {
    /// A verifier key that you trust, or @FILE with one on each line; may be given several times
    ///
    /// It must have come to you by a way that the worker's machine has no hand in: the keys that a
    /// trail names itself prove nothing. A trail whose key was changed needs the old and the new one.
    #[arg(long = "key", value_name = "VKEY", required = true)]
    key: Vec<OsString>,
}

/// `--key` of the subcommands that make something which is checked elsewhere.
#[derive(clap::Args)]
pub(crate) struct AnyKeys {
    /// A verifier key, or @FILE with one on each line; may be given several times. Without it, the
    /// keys that the trail names itself
    #[arg(long = "key", value_name = "VKEY")]
    key: Vec<OsString>,
}

impl TrustedKeys {
    pub(crate) fn read(&self) -> Result<Vec<VerifierKey>, Failure> {
        read(&self.key)
    }
}

impl AnyKeys {
    /// Returns the given keys, possibly none.
    pub(crate) fn given(&self) -> Result<Vec<VerifierKey>, Failure> {
        read(&self.key)
    }

    pub(crate) fn read(&self, dir: &Path) -> Result<Vec<VerifierKey>, Failure> {
        if self.key.is_empty() {
            stated_keys(dir).map_err(|error| could_not(&error))
        } else {
            read(&self.key)
        }
    }
}

fn read(given: &[OsString]) -> Result<Vec<VerifierKey>, Failure> {
    let mut keys = Vec::new();
    for value in given {
        match value.as_bytes().strip_prefix(b"@") {
            Some(path) => read_file(Path::new(std::ffi::OsStr::from_bytes(path)), &mut keys)?,
            None => keys.push(parse(&value.to_string_lossy(), "--key")?),
        }
    }
    Ok(keys)
}

fn read_file(path: &Path, keys: &mut Vec<VerifierKey>) -> Result<(), Failure> {
    let text = read_text(path, MAX_FILE_BYTES)?;
    let before = keys.len();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        keys.push(parse(line, &path.display().to_string())?);
    }
    if keys.len() == before {
        return Err(Failure::CouldNot(format!(
            "{}: the file holds no verifier key",
            path.display()
        )));
    }
    Ok(())
}

fn parse(text: &str, from: &str) -> Result<VerifierKey, Failure> {
    text.parse().map_err(|error| {
        Failure::CouldNot(format!(
            "{from}: {error}; to name a file that holds keys, write @FILE"
        ))
    })
}

/// Reads a whole text file of limited size.
pub(crate) fn read_text(path: &Path, max: u64) -> Result<String, Failure> {
    let failed = |words: &str| Failure::CouldNot(format!("{}: {words}", path.display()));
    let bytes = read_bytes(path, max)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(failed(&format!("the file has more than {max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed("the file is not text in UTF-8"))
}

/// Reads a whole file of limited size. For a larger one, returns one byte more than the limit.
pub(crate) fn read_bytes(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    File::open(path)
        .and_then(|file| read_all(file, max))
        .map_err(|error| Failure::CouldNot(format!("{}: {error}", path.display())))
}

/// Reads an open source in the same way.
pub(crate) fn read_all(source: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let key = TrailKey::from_file(&args.file, FileAccess::OwnerAndGroup)
        .map_err(|error| could_not(&error))?;
    let (origin, stated) = match (&args.trail, &args.origin) {
        (Some(dir), _) => {
            let stated = stated_keys(dir).map_err(|error| could_not(&error))?;
            let Some(first) = stated.first() else {
                return Err(Failure::Wrong(format!(
                    "{}: no segment names a key: verify the trail",
                    dir.display()
                )));
            };
            (first.name().to_owned(), stated)
        }
        (None, Some(origin)) => (origin.clone(), Vec::new()),
        (None, None) => return Err(Failure::CouldNot("say --trail or --origin".into())),
    };
    let verifier = key
        .verifier_key(&origin)
        .map_err(|error| could_not(&error))?;
    if args.trail.is_some() && !stated.contains(&verifier) {
        return Err(Failure::Wrong(format!(
            "the trail is not signed with this key, which would be {verifier}: give the file of the \
             key that it was opened with"
        )));
    }
    let mut out = Out::new();
    out.bytes(format!("{verifier}\n").as_bytes())?;
    out.finish()?;
    if args.trail.is_some() {
        tell("the trail names this key, which proves nothing yet: `vram-audit verify` does");
    }
    Ok(ExitCode::SUCCESS)
}
