//! Where segments are kept: a small trait, and the directory that implements it for real.
//!
//! The trait has exactly the steps whose order and failure matter for durability, so that a faulty
//! implementation can stand behind the same writer. It knows names and bytes; it does not know what
//! a line means. The directory is held open from the first check on, and everything goes through
//! that descriptor: nobody can put another directory, or a symbolic link, in its place later.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::open::OpenError;
use crate::process;

/// The name of the lock file in a trail's directory.
pub(super) const LOCK: &str = "lock";

/// Opens named segments for reading, like [`Storage::read`], beside the storage and for longer.
pub(crate) type SegmentReader = Box<dyn Fn(u64) -> io::Result<Box<dyn Read>> + Send + Sync>;

/// Storage of segments.
pub(crate) trait Storage: Send + fmt::Debug + 'static {
    type File: SegmentFile;

    /// The numbers of the named segments, in ascending order.
    fn segments(&self) -> io::Result<Vec<u64>>;

    /// Makes what an earlier run wrote into a named segment durable. From here on, reading it shows
    /// what is on the medium.
    fn sync(&self, segment: u64) -> io::Result<()>;

    /// Opens a named segment for reading.
    fn read(&self, segment: u64) -> io::Result<Box<dyn Read>>;

    /// The same for other threads. It holds no lock, and keeps nobody from opening the trail.
    fn reader(&self) -> io::Result<SegmentReader>;

    /// Creates the file of a segment that has no name yet, empty.
    fn create(&self, segment: u64) -> io::Result<Self::File>;

    /// Gives the segment its name.
    fn publish(&self, segment: u64) -> io::Result<()>;

    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()>;

    /// Removes segments that never got a name.
    fn remove_unfinished(&self) -> io::Result<()>;
}

/// A segment that is being written.
pub(crate) trait SegmentFile: Send + fmt::Debug {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything that was appended durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file name of a segment.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{segment:06}.jsonl")
}

/// The number of the segment that has this name.
pub(crate) fn parse_segment_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let segment = name.strip_suffix(".jsonl")?.parse().ok()?;
    (segment_name(segment) == name).then_some(segment)
}

fn unfinished_name(segment: u64) -> String {
    format!("{segment:06}.jsonl.new")
}

/// Whether a trail must be there already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Presence {
    /// It is opened or created.
    Either,
    /// Only a new one is begun.
    Refused,
    /// Only one that is there is opened.
    Required,
}

impl Presence {
    /// Whether it fits what the directory holds.
    pub(super) fn check(self, path: &Path, segments: &[u64]) -> Result<(), OpenError> {
        let path = || path.to_owned();
        match self {
            Self::Required if segments.is_empty() => Err(OpenError::NoTrail { path: path() }),
            Self::Refused if !segments.is_empty() => Err(OpenError::Exists { path: path() }),
            Self::Either | Self::Refused | Self::Required => Ok(()),
        }
    }
}

/// A trail's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: OwnedFd,
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Opens the directory, creating it if it may be absent, and locks it. Refuses one that others
    /// can reach, that belongs to somebody else, or that is behind a symbolic link.
    pub(crate) fn open(path: &Path, presence: Presence) -> Result<Self, OpenError> {
        let io = |operation| {
            move |errno: Errno| OpenError::Io {
                path: path.to_owned(),
                operation,
                source: errno.into(),
            }
        };
        if presence != Presence::Required {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(io("create directory")(errno)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(path)),
            Err(Errno::NOENT) => return Err(OpenError::NoTrail { path: path.into() }),
            Err(errno) => return Err(io("open directory")(errno)),
        };
        check_access(
            path,
            &rustix::fs::fstat(&dir).map_err(io("stat directory"))?,
        )?;
        // Before the lock's file is made: in the place of a volume that is not mounted, nothing is.
        let segments = segments_in(&dir).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            operation: "list segments in",
            source,
        })?;
        presence.check(path, &segments)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io("open lock file"))?;
        let lock = File::from(lock);
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io {
                    path: path.to_owned(),
                    operation: "lock",
                    source,
                });
            }
        }
        let this = Self {
            dir,
            path: path.to_owned(),
            lock,
        };
        // Also where the directory was there: who made it may have been killed before its sync.
        if segments.is_empty() {
            sync_parent(path)?;
        }
        Ok(this)
    }
}

fn names_in(dir: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStrExt;

    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir.as_fd())? {
        names.push(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned());
    }
    Ok(names)
}

fn segments_in(dir: &OwnedFd) -> io::Result<Vec<u64>> {
    let names = names_in(dir)?;
    let mut segments: Vec<u64> = names
        .iter()
        .filter_map(|name| parse_segment_name(name))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file would not do: a child that was forked meanwhile holds the same lock.
        if process::check().is_ok() {
            let _unlocked = self.lock.unlock();
        }
    }
}

/// For reading; a link, a pipe or a device is refused without waiting for it.
fn open_segment(dir: &OwnedFd, segment: u64) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(dir, segment_name(segment), flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("a segment is not a regular file"));
    }
    Ok(File::from(file))
}

fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|source| OpenError::Io {
            path: parent.to_owned(),
            operation: "sync directory",
            source,
        })
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

fn check_access(path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(OpenError::Owner {
            path: path.to_owned(),
            owner: stat.st_uid,
        });
    }
    Ok(())
}

impl Storage for Directory {
    type File = AppendFile;

    fn segments(&self) -> io::Result<Vec<u64>> {
        segments_in(&self.dir)
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        let file = open_segment(&self.dir, segment)?;
        file.sync_data()?;
        // If a sync of the earlier run has failed, the page cache holds, marked clean, what the
        // medium does not, and this sync said nothing of it. Without those pages, one sees.
        Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
    }

    fn read(&self, segment: u64) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(open_segment(&self.dir, segment)?))
    }

    fn reader(&self) -> io::Result<SegmentReader> {
        let dir = self.dir.try_clone()?;
        Ok(Box::new(move |segment| {
            Ok(Box::new(open_segment(&dir, segment)?))
        }))
    }

    fn create(&self, segment: u64) -> io::Result<AppendFile> {
        let name = unfinished_name(segment);
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR);
        let file = match create() {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())?;
                create()?
            }
            other => other?,
        };
        Ok(AppendFile {
            file: File::from(file),
        })
    }

    fn publish(&self, segment: u64) -> io::Result<()> {
        let (from, to) = (unfinished_name(segment), segment_name(segment));
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        for name in names_in(&self.dir)? {
            let is_unfinished = name
                .to_str()
                .and_then(|name| name.strip_suffix(".new"))
                .is_some_and(|name| parse_segment_name(OsStr::new(name)).is_some());
            if is_unfinished {
                rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// A segment's file, opened for appending.
#[derive(Debug)]
pub(crate) struct AppendFile {
    file: File,
}

impl SegmentFile for AppendFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
