//! The medium of a trail's directory: the kind of file system, and what it promises for synced
//! data.
//!
//! The kernel names the file system and its options in `/proc/self/mountinfo`. Without that file,
//! the number from `statfs` identifies the usual ones. A promise is not a proof: a disk can lie,
//! and so can a server.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags};
use serde::Serialize;

use crate::process;

/// The longest name of a file system that is recorded.
const MAX_NAME_BYTES: usize = 64;

/// What `TrailOpened` states about the place of the segments.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Medium {
    pub(crate) file_system: Arc<str>,
    pub(crate) kept: Kept,
    pub(crate) locks: Locked,
}

/// Where synced data is, and how long it lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// A server, or the host of a sandbox, keeps it in its own way.
    ByServer,
    /// In memory: it is lost at the next start of the machine, or of the pod.
    InMemory,
    /// The file system is mounted so that a sync does not reach the disk.
    NotSynced,
    /// On the disk, provided that the disk keeps what it acknowledges.
    OnDisk,
    /// In the upper layer of an overlay, such as a container's own files: gone when the container is
    /// removed.
    OverlayLayer,
    Unknown,
}

/// What the writer could lock against a second one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Locked {
    DirectoryAndFile,
    /// The file `lock` only: the file system has no directory locks, or none that reach other
    /// machines.
    File,
    /// It is unknown whether the locks reach other machines.
    Unknown,
    /// Only this machine: the mount option keeps all locks local.
    ThisMachine,
}

impl Medium {
    /// Returns the medium of the opened directory.
    pub(super) fn of(dir: impl AsFd) -> Self {
        let (file_system, options) = mount_of(&dir).map_or_else(
            || {
                let number = rustix::fs::fstatfs(&dir).map(|stat| stat.f_type);
                if number.is_err() {
                    process::note_refused("fstatfs");
                }
                let name = number.map_or("unknown", |number| name_of(number as u64));
                (name.to_owned(), None)
            },
            |(name, options)| (name, Some(options)),
        );
        let kept = kept(&file_system, options.as_deref());
        Self {
            kept,
            locks: locks(&file_system, options.as_deref()),
            file_system: file_system.into(),
        }
    }

    /// Adds what its locks are worth after `taken`.
    pub(super) fn locked(self, taken: Locked) -> Self {
        let locks = self.locks.max(taken);
        Self { locks, ..self }
    }

    pub(crate) fn file_system(&self) -> Arc<str> {
        Arc::clone(&self.file_system)
    }

    /// Returns the name of the file system of `path`, for errors.
    pub(crate) fn name_at(path: &Path) -> Arc<str> {
        fs::File::open(path).map_or_else(|_| "unknown".into(), |dir| Self::of(dir).file_system)
    }

    /// Returns the reasons why a trail should not be here, for the log.
    pub(crate) fn objections(&self) -> impl Iterator<Item = &'static str> + use<> {
        let kept = match self.kept {
            Kept::InMemory => Some(
                "the trail is in memory, and gone with the pod or at the machine's next start: put it on a volume",
            ),
            Kept::NotSynced => Some(
                "no sync reaches the disk, and a crash can cost acknowledged records: put the trail on a volume",
            ),
            Kept::OverlayLayer => {
                Some("the trail is gone when its container is removed: put it on a volume")
            }
            Kept::ByServer | Kept::OnDisk | Kept::Unknown => None,
        };
        let locks = (self.locks == Locked::ThisMachine).then_some(
            "no lock keeps writers on other machines out of the trail: mount with locks (not `nolock`, `local_lock`, `nobrl`)",
        );
        kept.into_iter().chain(locks)
    }
}

/// Returns the type and the options of the directory's mount.
fn mount_of(dir: impl AsFd) -> Option<(String, String)> {
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    parse_mount(&mounts, stat.stx_mnt_id)
}

/// Each line is `id parent device root place options [more] - type source options` (proc(5)).
fn parse_mount(mounts: &str, id: u64) -> Option<(String, String)> {
    let id = id.to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(&id))?;
    let (_, about) = line.split_once(" - ")?;
    let mut fields = about.split(' ');
    let is_plain = |name: &&str| {
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let name = fields.next().filter(is_plain)?;
    Some((
        name.to_owned(),
        fields.nth(1).unwrap_or_default().to_owned(),
    ))
}

/// Returns where synced bytes are. Options can turn syncing off, so without them it is unknown
/// whether a disk has the bytes.
fn kept(file_system: &str, options: Option<&str>) -> Kept {
    // An overlay reports `volatile`, and in newer kernels `fsync=volatile`.
    let is_unsynced = |option: &str| {
        matches!(
            option,
            "barrier=0"
                | "fsync=volatile"
                | "fsync_mode=nobarrier"
                | "journal_flush_disabled"
                | "nobarrier"
                | "volatile"
        )
    };
    if options.is_some_and(|options| options.split(',').any(is_unsynced)) {
        return Kept::NotSynced;
    }
    if matches!(
        file_system,
        "aufs" | "fuse.fuse-overlayfs" | "fuse.unionfs" | "overlay" | "unionfs"
    ) {
        return Kept::OverlayLayer;
    }
    // This covers `fuse.sshfs` and the like. ZFS without sync (`sync=disabled`) cannot be seen in
    // the mount options.
    match file_system.split('.').next().unwrap_or_default() {
        "devtmpfs" | "ramfs" | "rootfs" | "tmpfs" => Kept::InMemory,
        "bcachefs" | "btrfs" | "ext2" | "ext3" | "ext4" | "f2fs" | "jfs" | "xfs"
            if options.is_some() =>
        {
            Kept::OnDisk
        }
        "9p" | "afs" | "beegfs" | "ceph" | "cifs" | "fuse" | "glusterfs" | "gpfs" | "lustre"
        | "nfs" | "nfs4" | "smb3" | "virtiofs" => Kept::ByServer,
        _ => Kept::Unknown,
    }
}

/// Returns what locks are worth on this file system. Linux asks some servers for file locks, unless
/// an option of the mount prevents it. It asks no server for directory locks.
fn locks(file_system: &str, options: Option<&str>) -> Locked {
    let is_local = |option: &str| {
        matches!(
            option,
            "local_lock=all"
                | "local_lock=flock"
                | "localflock"
                | "localflocks"
                | "nobrl"
                | "nolock"
        )
    };
    if options.is_some_and(|options| options.split(',').any(is_local)) {
        return Locked::ThisMachine;
    }
    match file_system {
        "cifs" | "nfs" | "nfs4" | "smb3" if options.is_some() => Locked::File,
        "aufs"
        | "bcachefs"
        | "btrfs"
        | "devtmpfs"
        | "ext2"
        | "ext3"
        | "ext4"
        | "f2fs"
        | "fuse.fuse-overlayfs"
        | "jfs"
        | "overlay"
        | "ramfs"
        | "rootfs"
        | "tmpfs"
        | "xfs"
        | "zfs" => Locked::DirectoryAndFile,
        _ => Locked::Unknown,
    }
}

/// Returns the file system with this number (statfs(2)).
fn name_of(number: u64) -> &'static str {
    match number & 0xffff_ffff {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x6969 => "nfs",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb3",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of Linux 6.18 and of the man page proc(5).
    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue,barrier=0
41 22 0:33 / /with\\040a\\040-\\040in\\040it rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,volatile
42 22 0:34 / /c rw - overlay overlay rw,lowerdir=/l,upperdir=/volatile,workdir=/w,fsync=ordered
46 22 0:39 / /v rw - overlay none rw,lowerdir=l,upperdir=u,workdir=w,uuid=on,fsync=volatile
43 22 0:35 / /s rw master:2 shared:9 - fuse.sshfs host:/ rw,user_id=0
44 22 0:36 / /n rw - nfs4 host:/ rw,vers=4.2
45 22 0:37 / /x rw - something-new none rw
47 22 0:40 / /o rw - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
48 22 8:1 / /f rw - f2fs /dev/sdb rw,fsync_mode=nobarrier
49 22 0:41 / /z rw - zfs tank/trail rw,xattr
50 1 0:2 / / rw - rootfs rootfs rw
51 22 0:42 / /l rw - nfs host:/ rw,vers=3,nolock,proto=tcp,local_lock=all
52 22 0:43 / /b rw - cifs //host/share rw,vers=3.1.1,nobrl
";

    #[test]
    fn a_file_system_is_what_its_mount_says() {
        use Locked::{DirectoryAndFile, File, ThisMachine, Unknown};
        for (id, name, what, which) in [
            (22, "ext4", Kept::OnDisk, DirectoryAndFile),
            (36, "ext3", Kept::NotSynced, DirectoryAndFile),
            (41, "overlay", Kept::NotSynced, DirectoryAndFile),
            (46, "overlay", Kept::NotSynced, DirectoryAndFile),
            (42, "overlay", Kept::OverlayLayer, DirectoryAndFile),
            (43, "fuse.sshfs", Kept::ByServer, Unknown),
            (44, "nfs4", Kept::ByServer, File),
            (45, "something-new", Kept::Unknown, Unknown),
            (
                47,
                "fuse.fuse-overlayfs",
                Kept::OverlayLayer,
                DirectoryAndFile,
            ),
            (48, "f2fs", Kept::NotSynced, DirectoryAndFile),
            (49, "zfs", Kept::Unknown, DirectoryAndFile),
            (50, "rootfs", Kept::InMemory, DirectoryAndFile),
            (51, "nfs", Kept::ByServer, ThisMachine),
            (52, "cifs", Kept::ByServer, ThisMachine),
        ] {
            let (found, options) = parse_mount(MOUNTS, id).unwrap();
            let kept = kept(&found, Some(&options));
            assert_eq!((found.as_str(), kept), (name, what));
            assert_eq!(locks(&found, Some(&options)), which, "{name}");
        }
        assert_eq!(parse_mount(MOUNTS, 2), None);
        for torn in ["22", "22 1 254:0 / / rw", "22 - ", "22 -  a b"] {
            assert_eq!(parse_mount(torn, 22), None, "{torn}");
        }
    }

    #[test]
    fn without_a_list_of_mounts_the_number_of_statfs_names_it() {
        for (number, what) in [
            (0x0102_1994, Kept::InMemory),
            // It could be mounted with `nobarrier`.
            (0xef53, Kept::Unknown),
            // From a signed 32-bit field, sign-extended.
            (0xffff_ffff_8584_58f6, Kept::InMemory),
            (0xff53_4d42, Kept::ByServer),
            (7, Kept::Unknown),
        ] {
            assert_eq!(kept(name_of(number), None), what, "{number:x}");
        }
    }
}
