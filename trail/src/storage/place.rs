//! The place of a trail's directory: the name that must lead to it for as long as the trail is
//! open.
//!
//! A directory that was removed, moved, or covered by a mount still takes writes through a
//! descriptor. Those writes cannot be found at the trail's path. The name is looked up in the
//! directory above, which is held open, since a process may change its own directory or its root
//! meanwhile. Not noticed: a move of the directory above.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::FileId;

#[derive(Debug)]
pub(super) struct Place {
    /// The directory above, and the name there. `None` for a path that ends in no name, such as
    /// `/`.
    entry: Option<(OwnedFd, OsString)>,
    id: FileId,
}

impl Place {
    /// Returns the place of the directory `dir`, which was opened at `path`.
    pub(super) fn of(dir: &OwnedFd, path: &Path) -> Result<Self, Errno> {
        let id = FileId::of(&rustix::fs::fstat(dir)?);
        let entry = match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => {
                let above = if above.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    above
                };
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let above = rustix::fs::open(above, flags, Mode::empty())?;
                Some((above, name.to_owned()))
            }
            _ => None,
        };
        Ok(Self { entry, id })
    }

    /// Fails if the directory `dir` is not in its place.
    pub(super) fn check(&self, dir: &OwnedFd) -> io::Result<()> {
        let is_there = match &self.entry {
            None => rustix::fs::fstat(dir)?.st_nlink > 0,
            Some((above, name)) => {
                match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileId::of(&stat) == self.id,
                    Err(Errno::NOENT | Errno::NOTDIR) => false,
                    // A process that has dropped its privileges may no longer look.
                    Err(Errno::ACCESS | Errno::PERM) => rustix::fs::fstat(dir)?.st_nlink > 0,
                    Err(errno) => return Err(errno.into()),
                }
            }
        };
        if is_there {
            Ok(())
        } else {
            Err(io::Error::other(
                "the trail's directory was removed, moved, or covered by a mount: put it back in its place",
            ))
        }
    }
}
