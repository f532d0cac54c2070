//! What the integration tests share: a trail in a temporary directory, shards to put on record, a
//! reader of the trail's lines that knows JSON and nothing of the library, and a way to run a test
//! in a process of its own.

#![allow(dead_code, reason = "each binary uses a part of it")]

pub mod fields;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vram_residency::audit::faults::StorageFaults;
use vram_residency::audit::{
    self, AuditTrailBuilder, Checkpoint, PolicyViolation, Report, VerifierKey,
};
use vram_residency::device::Device;
use vram_residency::shard::{Allocated, Sealed, Shard};
use vram_residency::{AuditTrail, Host, ModelRef, Provenance, TrailKey, VramManager, WorkerToken};

/// A directory for one trail and its key; gone when dropped.
pub struct Place {
    pub temp: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            temp: TempDir::new().unwrap(),
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("trail")
    }

    pub fn key(&self) -> TrailKey {
        key_at(self.temp.path())
    }

    pub fn builder(&self) -> AuditTrailBuilder {
        builder_at(self.temp.path())
    }

    /// A builder whose storage fails on command.
    pub fn faulty(&self) -> (AuditTrailBuilder, StorageFaults) {
        let faults = StorageFaults::dangerous_new();
        let builder = self.builder().dangerous_storage_faults(faults.clone());
        (builder, faults)
    }

    pub fn open(&self) -> AuditTrail {
        self.builder().open_or_create().unwrap()
    }

    pub fn records(&self) -> Vec<Value> {
        records(&self.dir())
    }

    pub fn verify(&self, key: &VerifierKey, anchors: &[Checkpoint]) -> Report {
        audit::verify(self.dir(), std::slice::from_ref(key), anchors)
    }
}

/// What [`Place::key`] is, for a process that knows the directory alone.
pub fn key_at(place: &Path) -> TrailKey {
    TrailKey::open_or_create(place.join("key.pem")).unwrap()
}

/// What [`Place::builder`] is, for a process that knows the directory alone.
pub fn builder_at(place: &Path) -> AuditTrailBuilder {
    AuditTrail::builder(
        "worker-1".parse().unwrap(),
        place.join("trail"),
        key_at(place),
    )
    .durable_within(Duration::from_millis(100))
}

/// A manager of this machine's memory with a token of its own.
pub fn manager(trail: &AuditTrail) -> VramManager<Host> {
    VramManager::builder(Host::new(), &WorkerToken::generate().unwrap(), trail)
        .build()
        .unwrap()
}

pub fn model() -> ModelRef {
    ModelRef::new("model", 0, 1).unwrap()
}

/// A shard with `len` bytes that are not all the same.
pub fn filled<D: Device>(manager: &VramManager<D>, id: &str, len: usize) -> Shard<Allocated, D> {
    let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let mut shard = manager
        .allocate(id.parse().unwrap(), model(), len as u64)
        .unwrap();
    shard.write_at(0, &bytes).unwrap();
    shard
}

pub fn sealed<D: Device>(manager: &VramManager<D>, id: &str, len: usize) -> Shard<Sealed, D> {
    filled(manager, id, len)
        .seal(Provenance::UnpinnedFirstUse)
        .unwrap()
}

/// A critical record, for whoever needs just one.
pub const VIOLATION: PolicyViolation<'static> = PolicyViolation {
    policy: "models-are-pinned",
    violation: "unpinned model",
    details: "asked for by the operator",
    action: "refused",
};

/// What [`child`] reads.
pub const CHILD: &str = "VRAM_TEST_CHILD";

/// The name by which the harness knows a test: its modules and its function, without the crate.
pub fn name_of<F: Fn()>(_test: F) -> &'static str {
    let (_, name) = std::any::type_name::<F>().split_once("::").unwrap();
    name
}

/// The arguments with which this test binary runs one test and nothing else.
pub fn only(test: &str) -> [String; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"].map(str::to_owned)
}

/// One test of this binary in a process of its own, where [`child`] has `value`.
pub fn child_command(test: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(only(test)).env(CHILD, value);
    command
}

/// Runs a test's body in a process of its own, where nothing else forks, waits or installs.
pub fn alone<F: FnOnce(&Path)>(body: F) {
    if let Some(place) = child() {
        return body(&place);
    }
    // A closure's name begins with those of the crate and of the function that it is in.
    let name = std::any::type_name::<F>();
    let (test, _) = name.split_once("::{{").unwrap();
    let (_, test) = test.split_once("::").unwrap();
    let place = Place::new();
    ran_well(&child_command(test, place.temp.path()).output().unwrap());
}

/// The child has run its one test: a name that fits none would pass, too.
#[track_caller]
pub fn ran_well(output: &Output) {
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs one test alone in a mount namespace of its own, where `place`/`name` is an empty tmpfs of
/// `size`. Any user may do that, in a user namespace; where not, says why.
pub fn on_a_small_disk(test: &str, place: &Place, name: &str, size: &str) -> Result<(), String> {
    let script = format!(
        r#"mkdir -p -m 0700 "$D" && mount -t tmpfs -o size={size},mode=0700 small "$D" && "$@""#
    );
    let unshare = || {
        let mut command = Command::new("unshare");
        command
            .args(["-U", "-r", "-m", "sh", "-c", &script, "sh"])
            .env("D", place.temp.path().join(name));
        command
    };
    match unshare().arg("true").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("no tmpfs can be mounted: {why}"));
        }
        Err(error) => return Err(format!("`unshare` does not run: {error}")),
    }
    let output = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(only(test))
        .env(CHILD, place.temp.path())
        .output()
        .unwrap();
    ran_well(&output);
    Ok(())
}

/// What the parent gave, if this is a process that it started.
pub fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// The segments of a trail, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    paths.sort();
    paths
}

/// Every record in every segment, void ones too.
pub fn records(dir: &Path) -> Vec<Value> {
    segments(dir)
        .iter()
        .flat_map(|path| records_in(path))
        .collect()
}

pub fn records_in(path: &Path) -> Vec<Value> {
    String::from_utf8_lossy(&std::fs::read(path).unwrap())
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|value| value.get("seq").is_some())
        .collect()
}

/// The first `leaves` records. Of a segment that is not the last, those before the place where its
/// successor says that it ends.
pub fn acknowledged(dir: &Path, leaves: u64) -> Vec<Value> {
    let segments = segments(dir);
    let mut records = Vec::new();
    for (i, path) in segments.iter().enumerate() {
        let bytes = std::fs::read(path).unwrap();
        let end = segments.get(i + 1).map_or(bytes.len(), |next| {
            let header = &records_in(next)[0];
            header["previous"]["end"].as_u64().unwrap() as usize
        });
        for line in bytes[..end].split(|byte| *byte == b'\n') {
            if records.len() as u64 == leaves || line.is_empty() {
                break;
            }
            if !line.starts_with(b"{\"checkpoint\"") {
                records.push(serde_json::from_slice(line).unwrap());
            }
        }
    }
    records
}

/// The records of one event.
pub fn of_event(records: &[Value], event: &str) -> Vec<Value> {
    records
        .iter()
        .filter(|record| record["event"] == event)
        .cloned()
        .collect()
}

/// Says loudly that a test was skipped; fails if tools are required.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("VRAM_REQUIRE_TOOLS").is_none_or(|value| value != "1"),
        "VRAM_REQUIRE_TOOLS=1, and {why}"
    );
    say(&format!("SKIPPED: {why}"));
}

/// Says something that is to be seen although the test passes: the harness keeps back what
/// `eprintln!` says.
pub fn say(text: &str) {
    std::io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
}

/// A number that the long form of a test sets.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
}

/// SplitMix64: the same numbers from the same seed, for ever.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// From a seed that `VRAM_SEED` gives or chance does, and that is told.
    pub fn told(test: &str) -> Self {
        let chance = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_nsec;
        let seed = number("VRAM_SEED", chance as u64);
        say(&format!("{test}: VRAM_SEED={seed}"));
        Self(seed)
    }

    /// Another sequence from the same seed.
    pub fn lane(&self, lane: u64) -> Self {
        Self(Self(self.0 ^ lane).below(u64::MAX))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A built example: `cargo test` puts it beside the directory of this executable.
pub fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().and_then(Path::parent).unwrap();
    let example = profile.join("examples").join(name);
    assert!(
        example.exists(),
        "{} is not there: `cargo build --example {name}`",
        example.display()
    );
    example
}

/// Whether a tool is here; says loudly if it is not.
pub fn is_installed(tool: &str) -> bool {
    let installed = Command::new(tool).arg("--version").output().is_ok()
        || Command::new(tool).arg("version").output().is_ok();
    if !installed {
        skip(&format!("`{tool}` is not installed"));
    }
    installed
}
