//! Opens a trail's directory: checks who may use it, and whether it supports what a trail needs.
//!
//! All checks are made on the opened directory and before anything is put into it, so a refusal
//! leaves nothing behind. Of the directory's content, this module knows only the names of the
//! segments.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::lock::{LOCK, Locks};
use super::medium::Medium;
use super::place::Place;
use super::{Directory, Presence, segments_in};
use crate::key::FileAccess;
use crate::open::OpenError;

impl Directory {
    /// Opens the directory, creates it if it may be absent, and locks it. Refuses one that other
    /// users can access, that belongs to another user, or that is behind a symbolic link.
    pub(crate) fn open(
        path: &Path,
        presence: Presence,
        access: FileAccess,
    ) -> Result<Self, OpenError> {
        let is_made = presence != Presence::Required && make(path)?;
        let opened = Self::enter(path, presence, access);
        if is_made && opened.is_err() {
            if matches!(opened, Err(OpenError::NoLocks { .. })) {
                let _removed = std::fs::remove_file(path.join(LOCK));
            }
            // Fails if another process has put something into it meanwhile.
            let _removed = std::fs::remove_dir(path);
        }
        opened
    }

    fn enter(path: &Path, presence: Presence, access: FileAccess) -> Result<Self, OpenError> {
        let io = |operation| move |errno: Errno| OpenError::io(path, operation, errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(path)),
            Err(Errno::NOENT) => return Err(OpenError::NoTrail { path: path.into() }),
            Err(errno) => return Err(io("open directory")(errno)),
        };
        let stat = rustix::fs::fstat(&dir).map_err(io("stat directory"))?;
        check_access(path, access, &stat)?;
        // This comes before the lock's file is created: nothing must be created in the place of a
        // volume that is not mounted.
        let segments =
            segments_in(&dir).map_err(|source| OpenError::io(path, "list segments in", source))?;
        presence.check(path, &segments)?;
        if segments.is_empty() {
            rustix::fs::fsync(&dir).map_err(io("sync directory"))?;
            // Also if the directory existed: its creator may have been killed before its sync.
            sync_parent(path, &stat)?;
        }
        let (locks, locked) = Locks::take(&dir, path)?;
        let medium = Medium::of(&dir).locked(locked);
        let place = Place::of(&dir, path).map_err(io("stat directory"))?;
        Ok(Self {
            dir,
            path: path.to_owned(),
            place,
            medium,
            _locks: locks,
        })
    }
}

/// Creates the directory. Returns false if it existed.
fn make(path: &Path) -> Result<bool, OpenError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::NOENT) => Err(OpenError::NoParent {
            path: path.to_owned(),
            parent: parent(path).to_owned(),
        }),
        Err(errno) => Err(OpenError::io(path, "create directory", errno.into())),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the name of the directory `path`, which `stat` describes, durable. A mount point of a
/// volume has no name in the directory above.
fn sync_parent(path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let parent = parent(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let sync = |parent: OwnedFd| match rustix::fs::fstat(&parent)?.st_dev == stat.st_dev {
        true => rustix::fs::fsync(&parent),
        false => Ok(()),
    };
    rustix::fs::open(parent, flags, Mode::empty())
        .and_then(sync)
        .map_err(|errno| OpenError::io(parent, "sync directory", errno.into()))
}

fn not_a_directory(path: &Path) -> OpenError {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_symlink());
    let path = path.to_owned();
    if is_link {
        OpenError::SymbolicLink { path }
    } else {
        OpenError::NotADirectory { path }
    }
}

fn check_access(path: &Path, access: FileAccess, stat: &Stat) -> Result<(), OpenError> {
    let mode = stat.st_mode & 0o7777;
    if !access.allows(mode) {
        return Err(OpenError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    // Kubernetes makes the root of a volume, which belongs to root and to the pod's group.
    let is_roots = access == FileAccess::OwnerAndGroup && stat.st_uid == 0;
    if stat.st_uid != rustix::process::geteuid().as_raw() && !is_roots {
        return Err(OpenError::Owner {
            path: path.to_owned(),
            owner: stat.st_uid,
        });
    }
    Ok(())
}
