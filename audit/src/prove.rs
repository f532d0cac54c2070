//! `prove`, `check-proof` and `anchor`: extract parts of a trail that can be checked elsewhere, and
//! check proofs.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgGroup;
use vram_trail::{MAX_PROOF_BYTES, Proof, ProofError, ProveError};

use crate::collected::Search;
use crate::keys::{AnyKeys, TrustedKeys, read_all, read_bytes};
use crate::output::{Failure, Out, could_not, tell, with_causes};

/// Prove that one record is in a trail
///
/// Writes a C2SP tlog-proof (c2sp.org/tlog-proof) to standard output: the record itself, its
/// place, its path in the Merkle tree, and the newest checkpoint that covers it. Whoever has the
/// trail's verifier key can check it without the trail, and sees no other record.
///
/// The trail is read once or twice. If it is damaged behind the record, the checkpoint is the newest
/// before the damage. A proof is an anchor, too: keep it, give it to `verify --anchor`, and a trail
/// that was cut short before it contradicts it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  the proof was written
  2  there is no such record, or the trail cannot be read

Examples:
  vram-audit prove /var/lib/worker/trail 17 > record-17.tlog-proof
  vram-audit check-proof record-17.tlog-proof --key @verifier.key")]
pub(crate) struct ProveArgs {
    /// The trail's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The record's number (`seq`)
    #[arg(value_name = "SEQ")]
    seq: u64,
    #[command(flatten)]
    keys: AnyKeys,
}

/// Check the proof of one record, without its trail
///
/// Prints the record, to the byte, if the proof holds; nothing otherwise. That proves that the record
/// was in the trail when its checkpoint was signed. It says nothing about other records: not that
/// they are there, and not that the trail still is.
#[derive(clap::Args)]
#[command(after_long_help = "\
Exit status:
  0  the proof holds
  1  it does not: the record, the path or the signature is wrong, or the file is no proof
  2  it could not be checked: the file cannot be read, or no given key is that of its trail

Examples:
  vram-audit check-proof record-17.tlog-proof --key @verifier.key | jq .")]
pub(crate) struct CheckArgs {
    /// The proof, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    keys: TrustedKeys,
}

/// Print the newest checkpoint of a trail
///
/// Kept where the worker cannot rewrite it, a checkpoint is an anchor: with it, `verify --anchor`
/// notices a trail that was cut short or replaced by an older copy.
///
/// What is printed matches the records before it and is signed: by a given key, or else by one that
/// the trail names itself. A checkpoint at the end that a crash has torn from its records is passed
/// over, and what is printed is on the disk, so that a power cut cannot make it contradict the trail:
/// while a worker writes, that is the checkpoint before the newest one.
/// Only the last segment is read.
///
/// With --from-log, print the checkpoints that a worker has logged, each once, out of what a collector
/// of logs has kept: `tracing` as JSON or text, as such or as CRI, Docker or journald wrap it. Lines
/// that hold none are passed over; what looks like a checkpoint and is cut is told with its line.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("source").args(["dir", "from_log"]).required(true))]
#[command(after_long_help = "\
Exit status:
  0  a checkpoint was printed; with --from-log, what was cut is told all the same
  1  the last segment has no checkpoint that matches: verify the trail; with --from-log: none is
     whole, or none that has the name of a given key is signed by it
  2  the trail or the log cannot be read; with --from-log: it holds no checkpoint that was asked for

Examples:
  vram-audit anchor /var/lib/worker/trail | ssh vault 'cat >> worker-1.anchors'
  vram-audit verify /var/lib/worker/trail --key @verifier.key --anchor worker-1.anchors
  journalctl -u worker -o json --all | vram-audit anchor --from-log - --key @verifier.key")]
pub(crate) struct AnchorArgs {
    /// The trail's directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Search a log, or standard input if it is -; may be given several times, the oldest part first
    ///
    /// Without --key, nothing is known of signatures: every checkpoint is printed that is whole.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    from_log: Vec<PathBuf>,
    /// With --from-log: only checkpoints of this trail; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    origin: Vec<String>,
    #[command(flatten)]
    keys: AnyKeys,
}

pub(crate) fn prove(args: &ProveArgs) -> Result<ExitCode, Failure> {
    let keys = args.keys.read(&args.dir)?;
    let proof = vram_trail::prove(&args.dir, &keys, args.seq).map_err(|error| could_not(&error))?;
    print(&proof.to_string())
}

pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let keys = args.keys.read()?;
    let max = u64::try_from(MAX_PROOF_BYTES).unwrap_or(u64::MAX);
    let bytes = if args.file.as_os_str() == "-" {
        // Not `/dev/stdin`, which cannot be opened if it is a socket.
        read_all(io::stdin(), max)
            .map_err(|error| Failure::CouldNot(format!("standard input: {error}")))?
    } else {
        read_bytes(&args.file, max)?
    };
    let refused = |error: ProofError| {
        let words = format!("{}: {}", args.file.display(), with_causes(&error));
        match error {
            ProofError::NoKey { .. } => Failure::CouldNot(words),
            _ => Failure::Wrong(words),
        }
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| refused(ProofError::Form("it is not text in UTF-8")))?;
    let proof: Proof = text.parse().map_err(refused)?;
    let record = proof.check(&keys).map_err(refused)?;
    let mut out = Out::new();
    out.bytes(record.as_bytes())?;
    out.bytes(b"\n")?;
    out.finish()?;
    tell(format_args!(
        "the proof holds: leaf {} of {} in the trail {}",
        proof.index(),
        proof.checkpoint().size(),
        proof.checkpoint().origin()
    ));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn anchor(args: &AnchorArgs) -> Result<ExitCode, Failure> {
    let Some(dir) = &args.dir else {
        return Search {
            files: &args.from_log,
            origins: &args.origin,
            keys: args.keys.given()?,
        }
        .run();
    };
    let keys = args.keys.read(dir)?;
    let newest = vram_trail::newest_checkpoint(dir, &keys).map_err(|error| match error {
        ProveError::NoCheckpoint { .. } => Failure::Wrong(error.to_string()),
        _ => could_not(&error),
    })?;
    print(&newest.to_string())
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    out.bytes(text.as_bytes())?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
