//! The memory available for shards in host memory.
//!
//! It is the minimum of the free memory of Linux and the limits of cgroups. Memory that loading
//! needs beside the shard is subtracted, and memory that was promised but not touched yet.
//!
//! `mmap` overcommits, and the out-of-memory killer strikes later. So the question is asked before
//! an allocation, once for all shards that are allocated together. The answer is a snapshot, and
//! other processes allocate too: it prevents mistakes, not races.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vram_digest::{BUFFERS, CHUNK_BYTES, threads};

use super::{Available, Bound};

/// The memory of one helper thread, in bytes: the touched part of its stack, and its allocator's
/// memory.
const THREAD_BYTES: u64 = 128 << 10;

/// The memory of the trail's threads, the allocator and the kernel while a shard is loaded, in
/// bytes.
///
/// The kernel's own memory counts in a cgroup, too. One of 40 loads in a cgroup of 24 MiB used up 2
/// MiB.
const BESIDE_BYTES: u64 = 4 << 20;

/// Loading needs at most one byte for this many bytes of the shard.
///
/// These are page tables (8 bytes for 4096), and the nodes of two trees in growing lists (at most
/// 32 bytes for 65 536).
const BYTES_FOR_ONE: u64 = 400;

/// Promised bytes without a page behind them yet, which neither Linux nor a cgroup counts.
static PROMISED: AtomicU64 = AtomicU64::new(0);

/// Promised memory, until all of it was touched.
#[derive(Debug)]
pub(super) struct Promise(AtomicU64);

impl Promise {
    /// Promises `bytes` if they are available, or nothing; also returns the available memory.
    ///
    /// Two callers never get the same bytes.
    pub(super) fn of(bytes: u64) -> (Self, Available) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let left = available();
        let given = if bytes <= left.bytes { bytes } else { 0 };
        PROMISED.fetch_add(given, Ordering::AcqRel);
        (Self(AtomicU64::new(given)), left)
    }

    /// Splits off a promise of `bytes`, or of the rest if that is less.
    pub(super) fn part(&self, bytes: u64) -> Self {
        Self(AtomicU64::new(self.take(bytes)))
    }

    /// Reduces the promise by `bytes` that were touched and are counted by the kernel now.
    ///
    /// Bytes written twice count twice, at most until nothing is left.
    pub(super) fn touched(&self, bytes: u64) {
        PROMISED.fetch_sub(self.take(bytes), Ordering::AcqRel);
    }

    fn take(&self, bytes: u64) -> u64 {
        let less = |left: u64| Some(left.saturating_sub(bytes));
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.unwrap_or_else(|left| left).min(bytes)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.touched(u64::MAX);
    }
}

/// Returns the memory available for shards now.
pub(super) fn available() -> Available {
    // Read this before asking the kernel: bytes touched meanwhile count twice, rather than never.
    let promised = PROMISED.load(Ordering::Acquire);
    let bare = bare_under(Path::new("/proc"), Path::new("/sys/fs/cgroup"));
    for_shards(bare, promised)
}

/// Returns the memory for shards while `promised` bytes are promised and not touched.
///
/// Counts one load at a time: loads that have begun have their memory already.
fn for_shards(bare: Available, promised: u64) -> Available {
    let buffers = BUFFERS.saturating_mul(CHUNK_BYTES) as u64;
    let helpers = (threads() as u64).saturating_mul(THREAD_BYTES);
    let left = bare
        .bytes
        .saturating_sub(promised)
        .saturating_sub(buffers)
        .saturating_sub(helpers)
        .saturating_sub(BESIDE_BYTES);
    match bare.bound {
        // The available memory is unknown.
        Bound::AddressSpace => bare,
        bound => Available {
            bytes: left.saturating_sub(left.div_ceil(BYTES_FOR_ONE)),
            bound,
        },
    }
}

/// Returns the memory that Linux and the cgroups leave to this process.
fn bare_under(proc: &Path, cgroups: &Path) -> Available {
    let most = Available {
        bytes: isize::MAX as u64,
        bound: Bound::AddressSpace,
    };
    let linux = mem_available(proc).map(|bytes| Available {
        bytes,
        bound: Bound::MemAvailable,
    });
    [linux, left_in_cgroups(proc, cgroups)]
        .into_iter()
        .flatten()
        .fold(most, least)
}

fn least(one: Available, other: Available) -> Available {
    if other.bytes < one.bytes { other } else { one }
}

/// Reads a file of the kernel's with one system call, for which the kernel builds the file as a
/// whole.
///
/// A longer file is none of those needed here.
fn text(path: &Path) -> Option<String> {
    let mut bytes = vec![0; 8192];
    let got = File::open(path).ok()?.read(&mut bytes).ok()?;
    bytes.truncate(got);
    String::from_utf8(bytes).ok()
}

fn mem_available(proc: &Path) -> Option<u64> {
    let text = text(&proc.join("meminfo"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the rest in the process's cgroup and in each cgroup above it, of version 2 and version
/// 1.
fn left_in_cgroups(proc: &Path, cgroups: &Path) -> Option<Available> {
    let text = text(&proc.join("self/cgroup"))?;
    text.lines()
        .filter_map(|line| {
            // Format: hierarchy ":" controllers ":" path
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            if controllers.is_empty() {
                least_left(cgroups, path, &VERSION_2)
            } else if controllers.split(',').any(|name| name == "memory") {
                least_left(&cgroups.join("memory"), path, &VERSION_1)
            } else {
                None
            }
        })
        .reduce(least)
}

/// From this number on, a limit of version 1 means no limit: the kernel writes 2^63 less a page.
const NO_LIMIT: u64 = 1 << 60;

/// The names of a version's cgroup files.
struct Names {
    /// The limits, with the bound that each sets.
    limits: &'static [(&'static str, Bound)],
    usage: &'static str,
    /// The field of `memory.stat` for file pages that the kernel reclaims on demand.
    reclaimable: &'static str,
}

const VERSION_1: Names = Names {
    limits: &[("memory.limit_in_bytes", Bound::Cgroup)],
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

const VERSION_2: Names = Names {
    limits: &[
        ("memory.max", Bound::Cgroup),
        ("memory.high", Bound::CgroupHigh),
    ],
    usage: "memory.current",
    reclaimable: "inactive_file",
};

/// Walks up from the cgroup to the root of the mounted hierarchy.
///
/// In a container the path may exist only on the host. Then the walk ends at the mounted root,
/// which is the container's own cgroup.
fn least_left(root: &Path, path: &str, names: &Names) -> Option<Available> {
    let inside: PathBuf = Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    inside
        .ancestors()
        .filter_map(|group| left(&root.join(group), names))
        .reduce(least)
}

fn left(group: &Path, names: &Names) -> Option<Available> {
    let number = |name: &str| -> Option<u64> { text(&group.join(name))?.trim().parse().ok() };
    // No limit is `max` in version 2, and a huge number in version 1.
    let limits = names.limits.iter().filter_map(|(name, bound)| {
        let bytes = number(name).filter(|limit| *limit < NO_LIMIT)?;
        let bound = *bound;
        Some(Available { bytes, bound })
    });
    let limit = limits.reduce(least)?;
    let usage = number(names.usage)?;
    let stat = text(&group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == names.reclaimable)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let used = usage.saturating_sub(reclaimable);
    Some(Available {
        bytes: limit.bytes.saturating_sub(used),
        ..limit
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn ask(root: &tempfile::TempDir) -> (u64, Bound) {
        let answer = bare_under(&root.path().join("proc"), &root.path().join("cgroup"));
        (answer.bytes, answer.bound)
    }

    const MEMINFO: &str = "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:      64 kB\n";

    #[test]
    fn without_a_cgroup_limit_it_is_what_linux_has() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("cgroup/a/memory.max", "max\n"),
            ("cgroup/a/memory.current", "100\n"),
        ]);
        assert_eq!(ask(&root), (65536, Bound::MemAvailable));
    }

    #[test]
    fn the_tightest_cgroup_on_the_way_up_counts_and_file_cache_does_not() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("cgroup/a/b/memory.max", "60000\n"),
            ("cgroup/a/b/memory.current", "100\n"),
            ("cgroup/a/memory.max", "50000\n"),
            ("cgroup/a/memory.current", "21000\n"),
            ("cgroup/a/memory.stat", "anon 7\ninactive_file 1000\n"),
        ]);
        assert_eq!(ask(&root), (30000, Bound::Cgroup));
    }

    /// A sandbox (gVisor, `ProcSubset=pid`): the free memory is unknown, and version 1 sets no
    /// limit.
    #[test]
    fn without_meminfo_a_limit_that_is_none_is_not_called_available() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/a\n"),
            (
                "cgroup/memory/a/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("cgroup/memory/a/memory.usage_in_bytes", "3263434752\n"),
        ]);
        assert_eq!(ask(&root), (isize::MAX as u64, Bound::AddressSpace));
    }

    #[test]
    fn a_group_over_its_limit_has_nothing_left() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            (
                "proc/self/cgroup",
                "4:cpu,memory:/seen/by/host/only\n0::/\n",
            ),
            ("cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("cgroup/memory/memory.usage_in_bytes", "1001\n"),
        ]);
        assert_eq!(ask(&root), (0, Bound::Cgroup));
    }

    #[test]
    fn where_nothing_is_known_the_address_space_is_the_limit() {
        assert_eq!(ask(&tree(&[])), (isize::MAX as u64, Bound::AddressSpace));
    }

    /// Above `memory.high` a process is not killed. The kernel stops it until pages are reclaimed,
    /// but weights have no reclaimable pages.
    #[test]
    fn what_memory_high_leaves_counts_like_what_the_limit_leaves() {
        let group = |high, max| {
            ask(&tree(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a/b\n"),
                ("cgroup/a/b/memory.max", "60000\n"),
                ("cgroup/a/b/memory.current", "0\n"),
                ("cgroup/a/memory.max", max),
                ("cgroup/a/memory.high", high),
                ("cgroup/a/memory.current", "1000\n"),
            ]))
        };
        assert_eq!(group("40000\n", "max\n"), (39000, Bound::CgroupHigh));
        assert_eq!(group("40000\n", "30000\n"), (29000, Bound::Cgroup));
        assert_eq!(group("max\n", "max\n"), (60000, Bound::Cgroup));
    }

    #[test]
    fn what_loading_takes_and_what_is_promised_is_not_left_for_shards() {
        let bare = |bytes| Available {
            bytes,
            bound: Bound::Cgroup,
        };
        let mib = 1 << 20;
        let beside_24 = for_shards(bare(24 * mib), 0).bytes;
        assert!(beside_24 < 15 * mib, "eight buffers: {beside_24}");
        let large = for_shards(bare(1 << 40), 0).bytes;
        assert!((1 << 40) - large > (1 << 40) / 512, "page tables: {large}");
        let promised = for_shards(bare(1 << 40), 1 << 39).bytes;
        assert!(promised < 1 << 39, "{promised}");
        assert_eq!(for_shards(bare(1), 0).bytes, 0);
        assert_eq!(for_shards(bare(24 * mib), 24 * mib).bytes, 0);
    }

    #[test]
    fn a_promise_ends_as_its_bytes_are_touched_and_with_what_is_left_when_it_goes() {
        let (whole, left) = Promise::of(1 << 20);
        let rest = |promise: &Promise| promise.0.load(Ordering::Acquire);
        assert!(rest(&whole) == 1 << 20 && left.bytes >= 1 << 20);
        let part = whole.part(1 << 10);
        assert_eq!(
            (rest(&whole), rest(&part)),
            ((1 << 20) - (1 << 10), 1 << 10)
        );
        part.touched(1 << 9);
        assert_eq!(rest(&part), 1 << 9);
        part.touched(1 << 60);
        assert_eq!(rest(&part), 0);
        assert_eq!(rest(&whole.part(u64::MAX)), (1 << 20) - (1 << 10));
        assert_eq!(rest(&Promise::of(u64::MAX).0), 0, "cannot be had");
    }
}
