//! The reviewer's command: checks, shows and proves the content of an audit trail.
//!
//! It needs no secret of the operator, and never writes to a trail. Each subcommand is in the file
//! of its group. This file lists them and sets the exit status.

#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)
)]

mod collected;
mod digest;
mod explain;
mod keys;
mod output;
mod prove;
mod record;
mod retention;
mod show;
mod verify;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use output::{Failure, tell};

/// Checks audit trails of `vram-residency` workers.
///
/// A trail is a directory of numbered segments. Each line is a record of what a worker did with model
/// weights, or a signed checkpoint that vouches for all records before it. `verify` says whether a
/// trail holds; the other subcommands show single records, prove them, and help to keep a trail in
/// order. None of them writes to a trail or needs a secret of the worker; `key` alone reads one.
#[derive(Parser)]
#[command(
    name = "vram-audit",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit status:
  0  fine
  1  something is wrong with the evidence
  2  the question could not be answered: bad arguments, files that cannot be read, no key that fits
  3  `verify` only: what is there holds, and something is missing
  4  `verify --fail-on-incident` only: what is there holds, and incidents are on record in it

Environment:
  NO_COLOR   if set and not empty, no colours; there are none anyway where the output is no terminal

Examples:
  vram-audit verify /var/lib/worker/trail --key @verifier.key --anchor anchor.txt
  vram-audit show /var/lib/worker/trail --severity WARN --since 2026-11-01
  vram-audit prove /var/lib/worker/trail 17 > record-17.tlog-proof
  vram-audit check-proof record-17.tlog-proof --key @verifier.key

The format of a trail is described in FORMAT.md of the vram-residency crate.";

#[derive(Subcommand)]
enum Command {
    Verify(verify::Args),
    Show(show::Args),
    Prove(prove::ProveArgs),
    CheckProof(prove::CheckArgs),
    Anchor(prove::AnchorArgs),
    Retention(retention::Args),
    Digest(digest::Args),
    Key(keys::Args),
    Inspect(explain::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = match cli.command {
        Command::Verify(args) => verify::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Prove(args) => prove::prove(&args),
        Command::CheckProof(args) => prove::check(&args),
        Command::Anchor(args) => prove::anchor(&args),
        Command::Retention(args) => retention::run(&args),
        Command::Digest(args) => digest::run(&args),
        Command::Key(args) => keys::run(&args),
        Command::Inspect(args) => explain::run(&args),
    };
    match ended {
        Ok(code) => code,
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Wrong(words)) => {
            tell(words);
            ExitCode::from(1)
        }
        Err(Failure::CouldNot(words)) => {
            tell(words);
            ExitCode::from(2)
        }
    }
}

/// Prints help and version on standard output, and any other text as an error in the command's own
/// form.
fn usage(error: &clap::Error) -> ExitCode {
    let help = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == help {
        let _nobody = error.print();
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let words = error.render().to_string();
    let words = words.strip_prefix("error: ").unwrap_or(&words);
    for line in words.lines().filter(|line| !line.is_empty()) {
        tell(line);
    }
    ExitCode::from(2)
}
