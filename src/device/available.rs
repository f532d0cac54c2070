//! How much memory this process can have: the least of what Linux has and what cgroups allow.
//!
//! `mmap` promises almost anything; the out-of-memory killer collects later. So the question is
//! asked beforehand. The answer is a snapshot, and others allocate too: it prevents mistakes, not
//! races.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Available, Bound};

/// What can be allocated now.
pub(super) fn available() -> Available {
    available_under(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available_under(proc: &Path, cgroups: &Path) -> Available {
    let most = Available {
        bytes: isize::MAX as u64,
        bound: Bound::AddressSpace,
    };
    [
        (mem_available(proc), Bound::MemAvailable),
        (left_in_cgroups(proc, cgroups), Bound::Cgroup),
    ]
    .into_iter()
    .filter_map(|(bytes, bound)| bytes.map(|bytes| Available { bytes, bound }))
    .fold(most, |least, next| {
        if next.bytes < least.bytes {
            next
        } else {
            least
        }
    })
}

fn mem_available(proc: &Path) -> Option<u64> {
    let text = fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What is left in the process's cgroup and in each one above it, of version 2 and version 1.
fn left_in_cgroups(proc: &Path, cgroups: &Path) -> Option<u64> {
    let text = fs::read_to_string(proc.join("self/cgroup")).ok()?;
    text.lines()
        .filter_map(|line| {
            // hierarchy ":" controllers ":" path
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
        .min()
}

/// From here on a limit of version 1 is none: it says 2^63 less a page.
const NO_LIMIT: u64 = 1 << 60;

/// The files that a version of cgroups has.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: file pages that the kernel takes back when they are needed.
    reclaimable: &'static str,
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

const VERSION_2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file",
};

/// Walks up from the cgroup to the root of what is mounted. In a container the path can be one that
/// only the host sees; then the walk ends at the mounted root, which is the container's own.
fn least_left(root: &Path, path: &str, names: &Names) -> Option<u64> {
    let inside: PathBuf = Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    inside
        .ancestors()
        .filter_map(|group| left(&root.join(group), names))
        .min()
}

fn left(group: &Path, names: &Names) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse().ok()
    };
    // Without a limit, version 2 says `max`, and version 1 a number that is none.
    let limit = number(names.limit).filter(|limit| *limit < NO_LIMIT)?;
    let usage = number(names.usage)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == names.reclaimable)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
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
        let answer = available_under(&root.path().join("proc"), &root.path().join("cgroup"));
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

    /// A sandbox (gVisor, `ProcSubset=pid`): no memory that anybody knows, and no limit of version 1.
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
}
