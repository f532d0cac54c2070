//! The full demonstration of the library, step by step.
//!
//! The worker loads a model file, seals, verifies and serves it. Then it flips one bit of the
//! served memory, as failing memory would, and shows that the flip is detected and recorded. The
//! evidence can be checked with `vram-audit`, `fsverity` and `openssl`; the worker prints the
//! commands. The exit status is 0 only if all of that happened, 2 after wrong usage, and 1 after
//! any other failure. `--help` lists the options.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::{ControlFlow, Range};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use vram_residency::audit::{self, Checkpoint, Outcome, Reason, Receipt, VerifierKey};
use vram_residency::device::Device;
use vram_residency::digest::{Digest, Progress, Stream, StreamDigest};
use vram_residency::error::{CheckError, ReclaimError, SealError};
use vram_residency::{
    AuditTrail, Host, Lease, ModelRef, Provenance, Shared, TrailKey, VramManager, WorkerToken,
};

#[path = "worker/model.rs"]
mod model;

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    // The log is an anchor, too: checkpoints are logged at INFO.
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("vram_residency::checkpoint", LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(io::stderr))
        .with(filter)
        .init();
    let plan = Plan::parse();
    if plan.shards > 1 && plan.expect.is_some() {
        let problem = "--expect is for one shard: with more, each shard has a digest of its own";
        Plan::command()
            .error(ErrorKind::ArgumentConflict, problem)
            .exit();
    }
    match run(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("worker: {}", with_causes(failure.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Loads a model into a shard, serves it, damages it, and shows that the damage is caught and on record.
#[derive(Parser)]
#[command(name = "worker", max_term_width = 100)]
struct Plan {
    /// The model file; without one, the worker makes one.
    model: Option<PathBuf>,
    /// `host`, or `cuda:N` with the feature `cuda`.
    #[arg(long, default_value = "host", value_parser = parse_device)]
    device: Place,
    /// The digest that the model must have: `fsverity:HEX` or `sha256sum:HEX`.
    #[arg(long, value_name = "DIGEST", value_parser = parse_expectation)]
    expect: Option<Provenance>,
    /// Into how many shards the model is split, 1 to 1024.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    shards: u32,
    /// The directory of the audit trail. Key, anchor and evidence are put beside it.
    #[arg(long, value_name = "DIR", allow_hyphen_values = true, default_value = "worker-trail", value_parser = PathBufValueParser::new().try_map(parse_trail))]
    trail: PathBuf,
    /// Leaves out the damage.
    #[arg(long)]
    keep_clean: bool,
}

/// Where shards live.
#[derive(Clone, Copy)]
enum Place {
    Host,
    Gpu(u32),
}

impl Plan {
    fn provenance(&self) -> Provenance {
        self.expect.unwrap_or(Provenance::UnpinnedFirstUse)
    }

    /// Returns a path beside the trail's directory, never in it: evidence of a trail's end must not
    /// be lost together with the trail.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.trail.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.trail.with_file_name(name)
    }
}

fn parse_device(text: &str) -> Result<Place, String> {
    let number = text.strip_prefix("cuda:").map(str::parse);
    match (text, number) {
        ("host", _) => Ok(Place::Host),
        (_, Some(Ok(number))) => Ok(Place::Gpu(number)),
        _ => Err("give host, or cuda: and a number".into()),
    }
}

fn parse_expectation(text: &str) -> Result<Provenance, String> {
    let digest = match text.split_once(':') {
        Some(("fsverity", digits)) => digits.parse::<Digest>().map(Provenance::FsVerity),
        Some(("sha256sum", digits)) => digits.parse::<StreamDigest>().map(Provenance::Sha256),
        _ => {
            return Err("give fsverity:HEX (as `fsverity digest` prints) or sha256sum:HEX".into());
        }
    };
    digest.map_err(|error| error.to_string())
}

/// Parses the trail's path without a trailing slash or dot, so that it has a name to derive others
/// from.
fn parse_trail(path: PathBuf) -> Result<PathBuf, &'static str> {
    let path: PathBuf = path.components().collect();
    match path.file_name() {
        Some(_) => Ok(path),
        None => Err("give the name of a directory; key, anchor and evidence are put beside it"),
    }
}

/// A part of the model file that becomes a shard.
struct Part {
    number: u32,
    bytes: Range<u64>,
}

fn run(plan: &Plan) -> Result<(), Failure> {
    let evidence = plan.beside(".evidence");
    fs::create_dir_all(&evidence).map_err(|error| at(&evidence, &error))?;
    let path = match &plan.model {
        Some(path) => path.clone(),
        None => model::make(&evidence.join("model.safetensors"))?,
    };
    let len = model::check(&path)?;
    let parts = model::split(len, plan.shards)?;

    let key = TrailKey::open_or_create(plan.beside(".key.pem"))?;
    let trail = AuditTrail::builder("worker-1".parse()?, &plan.trail, key).open_or_create()?;
    let verifier = trail.verifier_key().clone();
    println!("trail         {} ({verifier})", plan.trail.display());

    // From here on, every path closes the trail; only the result of `close` shows that it
    // succeeded.
    let told = match plan.device {
        Place::Host => serve(plan, Host::new(), &trail, &path, &parts),
        Place::Gpu(number) => serve_in_gpu(plan, number, &trail, &path, &parts),
    };
    let closed = trail.close();
    let served = told?;
    let receipt = closed?;
    println!("closed        record {} is the last", receipt.seq());
    tell_reviewer(plan, &evidence, &path, &served, &verifier, &receipt)
}

/// A shard of the run, for the reviewer.
struct Served {
    part: Part,
    digest: Digest,
}

#[cfg(feature = "cuda")]
fn serve_in_gpu(
    plan: &Plan,
    number: u32,
    trail: &AuditTrail,
    path: &Path,
    parts: &[Range<u64>],
) -> Result<Vec<Served>, Failure> {
    let gpu = vram_residency::device::Cuda::builder(number).open()?;
    println!("device        cuda:{number}, {}", gpu.identity());
    serve(plan, gpu, trail, path, parts)
}

#[cfg(not(feature = "cuda"))]
fn serve_in_gpu(
    _: &Plan,
    number: u32,
    _: &AuditTrail,
    _: &Path,
    _: &[Range<u64>],
) -> Result<Vec<Served>, Failure> {
    Err(format!(
        "--device cuda:{number} needs the feature `cuda`: cargo run --release --example worker --features cuda -- --device cuda:{number}"
    )
    .into())
}

fn serve<D: Device>(
    plan: &Plan,
    device: D,
    trail: &AuditTrail,
    path: &Path,
    parts: &[Range<u64>],
) -> Result<Vec<Served>, Failure> {
    let manager = VramManager::builder(device, &WorkerToken::generate()?, trail).build()?;
    let mut file = File::open(path).map_err(|error| at(path, &error))?;
    let (mut served, mut shared) = (Vec::new(), Vec::new());
    for (number, bytes) in (0..).zip(parts.iter().cloned()) {
        let part = Part { number, bytes };
        let shard = bring_up(plan, &manager, &mut file, path, &part)?;
        served.push(Served {
            part,
            digest: shard.digest(),
        });
        shared.push(shard);
    }
    let leases = shared
        .iter()
        .map(Shared::lease)
        .collect::<Result<Vec<_>, _>>()?;
    let bytes: u64 = leases.iter().map(Lease::len).sum();
    println!(
        "served        {bytes} bytes under {} lease(s)",
        leases.len()
    );
    for shard in &shared {
        with_bar("check", shard.len(), |tick| shard.check_with_progress(tick))?;
    }
    println!("checked       beside the leases: unchanged");

    if !plan.keep_clean
        && let Some(shard) = shared.first()
    {
        break_and_catch(shard)?;
        if leases.first().is_none_or(|lease| lease.is_current()) {
            return Err("a lease is still current after a failed check".into());
        }
    }
    drop(leases);
    for shard in shared {
        match shard.reclaim() {
            Ok(shard) => shard.release()?,
            Err(ReclaimError::Failed { shard, .. }) => shard.release()?,
            Err(error) => return Err(error.into()),
        }
    }
    println!("released      wiped and freed");
    Ok(served)
}

/// Brings one part to service: allocated, loaded, sealed, verified, shared.
fn bring_up<D: Device>(
    plan: &Plan,
    manager: &VramManager<D>,
    file: &mut File,
    path: &Path,
    part: &Part,
) -> Result<Shared<D>, Failure> {
    let len = part.bytes.end - part.bytes.start;
    let id = format!("shard-{:04}", part.number).parse()?;
    let model = ModelRef::new(&model::name(path), part.number, plan.shards)?;
    let mut shard = manager.allocate(id, model, len)?;
    println!("allocated     {} with {len} bytes", shard.id());
    // The plain SHA-256 is slower than the tree, so it is computed only where it can be needed.
    let provenance = plan.provenance();
    let stream = match provenance {
        Provenance::UnpinnedFirstUse => Stream::TreeOnly,
        _ => Stream::WithSha256,
    };
    let loaded = with_bar("load", len, |tick| {
        shard.load_from_with_progress(file.take(len), stream, tick)
    })?;
    let sealed = with_bar("seal", len, |tick| {
        shard.seal_with_progress(provenance, tick)
    })
    .map_err(|error| advise(plan, error, loaded.digest, loaded.sha256))?;
    println!("sealed        fsverity sha256:{}", sealed.digest());
    if plan.expect.is_none() {
        println!("              unpinned: no digest was given (see --expect)");
    }
    let verified = with_bar("verify", len, |tick| sealed.verify_with_progress(tick))?;
    println!("verified      read back from the device, and equal");
    Ok(verified.share())
}

/// Adds advice to the error: a wrong `--expect` is often the right digest of the other kind.
fn advise<D: Device>(
    plan: &Plan,
    error: SealError<D>,
    digest: Digest,
    sha256: Option<StreamDigest>,
) -> Failure {
    let advice = match (plan.provenance(), sha256) {
        (Provenance::FsVerity(given), Some(sha256)) if given.as_bytes() == sha256.as_bytes() => {
            "\nadvice: this is the file's plain SHA-256: say --expect sha256sum:HEX"
        }
        (Provenance::Sha256(given), _) if given.as_bytes() == digest.as_bytes() => {
            "\nadvice: this is the file's fs-verity digest: say --expect fsverity:HEX"
        }
        _ => "",
    };
    match error {
        SealError::Broken(broken) => {
            let incident = broken.incident();
            format!(
                "{incident}\n  expected {}\n  found    {}{advice}",
                incident.expected().unwrap_or_default(),
                incident.actual().unwrap_or_default(),
            )
            .into()
        }
        other => other.into(),
    }
}

/// Flips one bit, as failing memory would. The next check must find it.
fn break_and_catch<D: Device>(shard: &Shared<D>) -> Result<(), Failure> {
    let offset = shard.len() / 2;
    println!("\nOne bit of {} flips at byte {offset} ...", shard.id());
    shard.dangerous_flip_bit(offset, 3)?;
    let Err(CheckError::Broken { incident, .. }) = shard.check() else {
        return Err("the flipped bit was not found".into());
    };
    println!("INCIDENT      {}", incident.reason());
    println!("  expected    {}", incident.expected().unwrap_or_default());
    println!("  found       {}", incident.actual().unwrap_or_default());
    println!("  windows     {:?} of 512 KiB", incident.damaged_windows());
    let receipt = incident.record().map_err(ToString::to_string)?;
    println!(
        "  receipt     record {}, durable under a checkpoint of {} records",
        receipt.seq(),
        receipt.checkpoint().size()
    );
    if incident.reason() != Reason::DigestMismatch || shard.lease().is_ok() {
        return Err("the incident did not revoke the shard".into());
    }
    println!("  leases      refused from now on\n");
    Ok(())
}

/// Writes the files and prints the commands with which a reviewer checks the run without the
/// library.
fn tell_reviewer(
    plan: &Plan,
    evidence: &Path,
    path: &Path,
    served: &[Served],
    verifier: &VerifierKey,
    receipt: &Receipt,
) -> Result<(), Failure> {
    let checkpoint: &Checkpoint = receipt.checkpoint();
    let write = |name: &str, bytes: &[u8]| {
        let file = evidence.join(name);
        fs::write(&file, bytes).map_err(|error| at(&file, &error))?;
        Ok::<_, Failure>(file)
    };
    let anchor = write("anchor.txt", checkpoint.to_string().as_bytes())?;
    let message = write("checkpoint.txt", checkpoint.signed_text().as_bytes())?;
    let signature = write("checkpoint.sig", &checkpoint.signature())?;
    let key = write("verifier.pem", verifier.to_pem().as_bytes())?;

    let report = audit::verify(
        &plan.trail,
        std::slice::from_ref(verifier),
        std::slice::from_ref(checkpoint),
    );
    println!("\n{report}");
    if report.outcome != Outcome::Holds || !report.end_vouched_for {
        return Err("the trail does not hold".into());
    }
    println!("verifier key: {verifier}");
    println!("anchor: {}", anchor.display());
    println!("trail: {}", plan.trail.display());
    for shard in served {
        println!(
            "digest: shard-{:04} sha256:{}",
            shard.part.number, shard.digest
        );
    }
    println!("\nCheck it (cargo install --path audit):");
    let mut command = OsString::from("vram-audit verify ");
    command.push(quoted(&plan.trail));
    command.push(format!(" --key {verifier} --anchor "));
    command.push(quoted(&anchor));
    print_command(&command)?;
    println!("\nCheck it without us:");
    for shard in served {
        print_command(&digest_command(path, evidence, served.len(), &shard.part))?;
    }
    let mut command = OsString::from("openssl pkeyutl -verify -pubin -inkey ");
    command.push(quoted(&key));
    command.push(" -rawin -in ");
    command.push(quoted(&message));
    command.push(" -sigfile ");
    command.push(quoted(&signature));
    print_command(&command)
}

fn digest_command(path: &Path, evidence: &Path, parts: usize, part: &Part) -> OsString {
    let mut command = OsString::new();
    let mut file = path.to_owned();
    if parts > 1 {
        file = evidence.join(format!("part-{:04}", part.number));
        command.push(format!("tail -c +{} ", part.bytes.start + 1));
        command.push(quoted(path));
        command.push(format!(
            " | head -c {} > ",
            part.bytes.end - part.bytes.start
        ));
        command.push(quoted(&file));
        command.push(" && ");
    }
    command.push("fsverity digest ");
    command.push(quoted(&file));
    command
}

/// Prints a command byte by byte, because a path need not be text.
fn print_command(command: &OsStr) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(b"  ")?;
    out.write_all(command.as_encoded_bytes())?;
    Ok(out.write_all(b"\n")?)
}

/// Quotes a path for a shell, and keeps tools from taking it for an option.
fn quoted(path: &Path) -> OsString {
    let mut text = Vec::new();
    if path.as_os_str().as_encoded_bytes().starts_with(b"-") {
        text.extend_from_slice(b"./");
    }
    text.extend_from_slice(path.as_os_str().as_encoded_bytes());
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%".contains(byte);
    if !text.iter().all(plain) {
        let parts: Vec<&[u8]> = text.split(|byte| *byte == b'\'').collect();
        text = [b"'", parts.join(&b"'\\''"[..]).as_slice(), b"'"].concat();
    }
    OsString::from_vec(text)
}

fn at(path: &Path, error: &dyn Error) -> Failure {
    format!("{}: {error}", path.display()).into()
}

/// Runs a long step under a progress bar, which is hidden if the output is not a terminal.
fn with_bar<T>(
    what: &'static str,
    len: u64,
    step: impl FnOnce(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> T,
) -> T {
    let style = "{msg:13} [{bar:40}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(len).with_style(style).with_message(what);
    let outcome = step(&mut |progress| {
        bar.set_position(progress.done);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    outcome
}
