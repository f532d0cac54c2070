//! `digest`: prints the digest that a shard with a file's bytes must have.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vram_digest::{Digests, Stream};

use crate::output::{Failure, Out, progress_bar, tell};

/// Print the digests of files
///
/// Prints the fs-verity digest of each file (SHA-256, 4096-byte blocks, no salt) as `fsverity digest`
/// does: `sha256:HEX FILE`. It is what a shard with exactly the file's bytes has as its digest in
/// `VramSealed` and `SealVerified`, and is computed on all cores. A digest is printed as soon as its
/// file is read.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  all files were read
  2  some could not be, and the digests of the others are printed; or whoever read the output had
     enough before the last file

Examples:
  vram-audit digest model.safetensors
  vram-audit digest --sha256sum *.safetensors | grep -v '^\\\\*sha256:' | sha256sum --check")]
pub(crate) struct Args {
    /// The files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print the plain SHA-256 as well, on a line of its own as `sha256sum` does: `HEX  FILE`
    ///
    /// Both come from one reading of the file. The plain SHA-256 cannot be computed on more than one
    /// core, so it takes longer. A name with a backslash, a newline or a carriage return is escaped
    /// on both lines as `sha256sum` escapes it, with a backslash before the line: so no name can
    /// forge a line. (`fsverity digest` escapes nothing, and neither does this command without the
    /// option.)
    #[arg(long)]
    sha256sum: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let stream = if args.sha256sum {
        Stream::WithSha256
    } else {
        Stream::TreeOnly
    };
    let mut out = Out::new();
    let mut unread = args.files.len();
    let mut told = Ok(());
    for path in &args.files {
        match digest(path, stream) {
            Ok(digests) => {
                unread = unread.saturating_sub(1);
                // A large file takes minutes, so an interruption must not lose finished results.
                told = out
                    .bytes(&lines(path.as_os_str(), &digests))
                    .and_then(|()| out.flush());
            }
            Err(error) => tell(format_args!("{}: {error}", path.display())),
        }
        if told.is_err() {
            break;
        }
    }
    match told.map_err(Failure::from) {
        // A closed output does not change that a file could not be read.
        Ok(()) | Err(Failure::Closed) => Ok(ExitCode::from(if unread == 0 { 0 } else { 2 })),
        Err(failure) => Err(failure),
    }
}

fn digest(path: &Path, stream: Stream) -> io::Result<Digests> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let bar = progress_bar(metadata.len(), path.display().to_string());
    let digests = Digests::of_reader(bar.wrap_read(file), stream);
    bar.finish_and_clear();
    digests
}

fn lines(name: &OsStr, digests: &Digests) -> Vec<u8> {
    let name = name.as_bytes();
    let verity = format!("sha256:{} ", digests.digest);
    let Some(sha256) = digests.sha256 else {
        return [verity.as_bytes(), name, b"\n"].concat();
    };
    let (escaped, name) = escape(name);
    let mark: &[u8] = if escaped { b"\\" } else { b"" };
    let plain = format!("{sha256}  ");
    let line = |digest: &str| [mark, digest.as_bytes(), &name, b"\n"].concat();
    [line(&verity), line(&plain)].concat()
}

/// Returns a name in the form of `sha256sum` (GNU coreutils 9), and whether the line marks it as
/// escaped.
fn escape(name: &[u8]) -> (bool, Vec<u8>) {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\r' => escaped.extend_from_slice(b"\\r"),
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            _ => escaped.push(*byte),
        }
    }
    (escaped.len() > name.len(), escaped)
}
