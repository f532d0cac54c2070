//! What can end a worker while it loads: the limit of its cgroup, and a file that gets shorter.
//!
//! The first story: a container has 24 MB. The worker asks for what is left, gets it, and the kernel
//! kills the worker while it loads: the buffers of the stream, the page tables and the trees were not
//! counted, nor was a second shard that nobody had filled yet.
//!
//! The second: a worker maps a model file and loads it. Another machine copies a new version over the
//! file, which begins by truncating it.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::ptr;

use crate::support::{
    self, CHILD, Place, builder_at, child, child_command, is_installed, manager, model, name_of,
    of_event, only, ran_well, say,
};
use vram_residency::digest::Stream;
use vram_residency::error::{AllocateError, LoadError};
use vram_residency::manager::NewShard;
use vram_residency::{AuditTrail, Provenance, ShardId};

const LIMIT: u64 = 24 << 20;

/// A memory cgroup of the test's own, which takes a process that the test starts.
struct Group(PathBuf);

impl Group {
    fn new(test: &str) -> io::Result<Self> {
        // In `/proc/PID/cgroup`, colons end a field.
        let test = test.replace("::", "-");
        let name = format!("vram-residency-{test}-{}", std::process::id());
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if version_1.exists() {
            (version_1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(root.join(name));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join(limit), LIMIT.to_string())?;
        Ok(group)
    }

    /// Runs one test of this binary in the group. Its memory can be locked, or is not.
    fn run(&self, test: &str, locks: bool) -> Output {
        let place = Place::new();
        drop(place.key());
        let limit = if locks { "true" } else { "ulimit -l 0" };
        let script = format!("echo $$ >\"$G\"/cgroup.procs && {limit} && exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]);
        if !locks {
            // The superuser's processes lock whatever they want, unless they are told not to.
            let less = ["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
            command.arg("setpriv").args(less);
        }
        command
            .arg(std::env::current_exe().unwrap())
            .args(only(test))
            .env("G", &self.0)
            .env(CHILD, place.temp.path())
            .output()
            .unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _empty_by_now = fs::remove_dir(&self.0);
    }
}

/// Runs the test in 24 MB, with memory that is locked and with memory that is not.
fn in_24_mb(test: &str) {
    match Group::new(test) {
        Ok(group) => {
            for locks in [true, false] {
                ran_well(&group.run(test, locks));
            }
        }
        // Containers often have no right to it, whatever is installed.
        Err(error) => say(&format!("SKIPPED: no cgroup of the test's own: {error}")),
    }
}

fn named(name: &str) -> ShardId {
    name.parse().unwrap()
}

#[test]
fn what_the_check_allows_is_loaded_sealed_and_verified_within_the_limit() {
    let Some(place) = child() else {
        return in_24_mb(name_of(
            what_the_check_allows_is_loaded_sealed_and_verified_within_the_limit,
        ));
    };
    let trail = builder_at(&place).open_or_create().unwrap();
    let manager = manager(&trail);
    // The process's own threads take something between this question and the next.
    let len = manager.capacity().available - (512 << 10);
    assert!(len > 1 << 20 && len < LIMIT, "{len}");
    let mut shard = manager.allocate(named("s"), model(), len).unwrap();
    let bytes = io::Read::take(io::repeat(7), len);
    shard.load_from(bytes, Stream::WithSha256).unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    shard.verify().unwrap().release().unwrap();
    trail.close().unwrap();
}

/// Nothing of it is touched, so neither Linux nor the cgroup knows of it yet.
#[test]
fn shards_that_nobody_has_filled_yet_leave_no_room_for_another() {
    let Some(place) = child() else {
        return in_24_mb(name_of(
            shards_that_nobody_has_filled_yet_leave_no_room_for_another,
        ));
    };
    let trail = builder_at(&place).open_or_create().unwrap();
    let manager = manager(&trail);
    let most = manager.capacity().available / 5 * 3;
    let allocate = |name| manager.allocate(named(name), model(), most);
    let first = allocate("a").unwrap();
    let refused = allocate("b").unwrap_err();
    assert!(
        matches!(refused, AllocateError::NoRoom { needed, .. } if needed == most),
        "{refused:?}"
    );
    first.release().unwrap();
    allocate("b").unwrap().release().unwrap();

    let both = ["c", "d"].map(|name| NewShard::new(named(name), model(), most));
    let refused = manager.allocate_all(both).unwrap_err();
    assert_eq!(refused.shard, named("d"));
    assert!(
        matches!(refused.source, AllocateError::NoRoom { needed, .. } if needed == 2 * most),
        "{refused:?}"
    );
    trail.close().unwrap();
}

/// How often one file was opened, and how often anything was read from it.
fn calls(log: &str, file: &str) -> (usize, usize) {
    let of = |call| {
        let named = |line: &&str| line.contains(call) && line.contains(file);
        log.lines().filter(named).count()
    };
    (of("openat("), of("read("))
}

#[test]
fn many_shards_that_are_allocated_together_ask_the_kernel_as_often_as_two() {
    let test = name_of(many_shards_that_are_allocated_together_ask_the_kernel_as_often_as_two);
    if let Some(place) = child() {
        let trail: AuditTrail = builder_at(&place).open_or_create().unwrap();
        let manager = manager(&trail);
        let many = std::env::var("MANY").unwrap().parse().unwrap();
        let wanted = (0..many).map(|i| NewShard::new(named(&format!("s-{i}")), model(), 4096));
        let mut batch = manager.allocate_all(wanted).unwrap();
        assert_eq!(batch.len(), many);
        for mut member in batch.iter_mut() {
            let loaded = match member.id().as_str().ends_with('0') {
                true => member.load_slice(&[7; 4096], Stream::TreeOnly),
                false => member.load_from(&[7; 4096][..], Stream::TreeOnly),
            };
            loaded.unwrap();
        }
        for shard in batch.seal(|_| Provenance::UnpinnedFirstUse).unwrap() {
            let shared = shard.verify().unwrap().share();
            shared.check().unwrap();
        }
        return trail.close().map(drop).unwrap();
    }
    if !is_installed("strace") {
        return;
    }
    let counts = ["2", "500"].map(|many| {
        let place = Place::new();
        drop(place.key());
        let log = place.temp.path().join("log");
        let output = Command::new("strace")
            .args(["-f", "-y", "-qq", "-e", "trace=openat,read", "-o"])
            .arg(&log)
            .arg(std::env::current_exe().unwrap())
            .args(only(test))
            .env(CHILD, place.temp.path())
            .env("MANY", many)
            .output()
            .unwrap();
        ran_well(&output);
        let log = fs::read_to_string(log).unwrap();
        ["/proc/meminfo", "/cgroup/"].map(|file| calls(&log, file))
    });
    say(&format!(
        "{test}: opened and read, by 2 and by 500: {counts:?}"
    ));
    let [few, many] = counts;
    assert_eq!(few, many);
    let [(opened, read), _] = many;
    // Before memory is given, and for the records. A file of the kernel's is whole at the first read.
    assert_eq!((opened, read), (2, 2));
}

const FILE_BYTES: u64 = 64 << 20;

/// A file of zeros that can be made shorter or longer.
fn file_in(place: &Path) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true);
    let file = file.open(place.join("weights")).unwrap();
    file.set_len(FILE_BYTES).unwrap();
    file
}

#[test]
fn a_file_that_changes_its_length_while_it_is_read_is_an_error_on_record() {
    let place = Place::new();
    let file = file_in(place.temp.path());
    let trail = place.open();
    let manager = manager(&trail);
    let mut shard = manager.allocate(named("s"), model(), FILE_BYTES).unwrap();
    let mut load = |becomes: u64| {
        let reader = File::open(place.temp.path().join("weights")).unwrap();
        shard.load_from_with_progress(reader, Stream::TreeOnly, |_| {
            file.set_len(becomes).unwrap();
            ControlFlow::Continue(())
        })
    };
    let error = load(4096).unwrap_err();
    assert!(
        matches!(error, LoadError::TooShort { expected: FILE_BYTES, got, .. } if got < FILE_BYTES),
        "{error:?}"
    );
    file.set_len(FILE_BYTES).unwrap();
    let error = load(FILE_BYTES + 1).unwrap_err();
    assert!(matches!(error, LoadError::TooLong { .. }), "{error:?}");
    file.set_len(FILE_BYTES).unwrap();
    load(FILE_BYTES).unwrap();
    shard.release().unwrap();
    trail.close().unwrap();
    let failed = of_event(&place.records(), "DeviceFailed");
    let operations: Vec<_> = failed.iter().map(|record| &record["operation"]).collect();
    assert_eq!(operations, ["load", "load"]);
}

/// Why files are not to be mapped. Nothing in this process can turn it into an error.
#[test]
fn a_mapped_file_that_is_truncated_while_it_is_loaded_ends_the_worker_without_a_record() {
    const SIGBUS: i32 = 7;
    let test = name_of(
        a_mapped_file_that_is_truncated_while_it_is_loaded_ends_the_worker_without_a_record,
    );
    let Some(place) = child() else {
        let place = Place::new();
        drop(place.key());
        let ended = child_command(test, place.temp.path()).output().unwrap();
        assert_eq!(ended.status.signal(), Some(SIGBUS), "{ended:?}");
        let records = place.records();
        assert_eq!(of_event(&records, "VramAllocated").len(), 1);
        assert!(of_event(&records, "DeviceFailed").is_empty());
        return;
    };
    let file = file_in(&place);
    let trail = builder_at(&place).open_or_create().unwrap();
    let manager = manager(&trail);
    let mut shard = manager.allocate(named("s"), model(), FILE_BYTES).unwrap();
    trail.policy_violation(support::VIOLATION).unwrap();
    let (len, access, flags) = (FILE_BYTES as usize, libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: that the file gets shorter is what this is about: the process ends before anything is read there.
    let mapped = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) };
    let loaded = shard.load_slice_with_progress(mapped, Stream::TreeOnly, |_| {
        file.set_len(4096).unwrap();
        ControlFlow::Continue(())
    });
    panic!("the kernel has sent no signal: {loaded:?}");
}
