//! Where segments are kept: a small trait, and the directory that implements it.
//!
//! The trait has exactly the steps whose order and failure matter for durability, so that a faulty
//! implementation can be used with the same writer. It knows names and bytes. It does not know what
//! a line means. The directory is held open from the first check on, and all calls use that
//! descriptor. So no other directory or symbolic link can take its place later.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::open::OpenError;
use crate::process;
use lock::Locks;
pub(super) use lock::may_be_held;
pub(super) use medium::Medium;
use place::Place;

mod lock;
mod medium;
mod opening;
mod place;

/// The most unfinished files of one segment that are kept. Killed openings leave such files.
const MAX_UNFINISHED: u32 = 64;

/// Opens named segments for reading, like [`Storage::read`]. It works in other threads and may
/// outlive the storage.
pub(crate) type SegmentReader = Box<dyn Fn(u64) -> io::Result<Box<dyn Read>> + Send + Sync>;

/// Storage of segments.
pub(crate) trait Storage: Send + fmt::Debug + 'static {
    type File: SegmentFile;

    /// Returns the numbers of the named segments, in ascending order.
    fn segments(&self) -> io::Result<Vec<u64>>;

    /// Makes durable what an earlier run wrote into a named segment. After that, reading it shows
    /// what is on the medium.
    fn sync(&self, segment: u64) -> io::Result<()>;

    /// Opens a named segment for reading.
    fn read(&self, segment: u64) -> io::Result<Box<dyn Read>>;

    /// Returns a reader for other threads. It holds no lock, so it does not prevent opening the
    /// trail.
    fn reader(&self) -> io::Result<SegmentReader>;

    /// Creates the empty file of a segment without a name, beside the existing files.
    fn create(&self, segment: u64) -> io::Result<Self::File>;

    /// Gives the segment, whose file is `file`, its name. If another file has the name, it fails
    /// with [`io::ErrorKind::AlreadyExists`].
    fn publish(&self, segment: u64, file: &Self::File) -> io::Result<()>;

    /// Removes all names of the file of a segment that was to begin, for good.
    fn discard(&self, segment: u64, file: &Self::File) -> io::Result<()>;

    /// Returns the file that has the name of a segment now. Fails if the directory itself is no
    /// longer in its place.
    fn find(&self, segment: u64) -> io::Result<Option<Found>>;

    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()>;

    /// Returns the files of segments that never got a name.
    fn unfinished(&self) -> io::Result<Vec<String>>;

    /// Opens an unfinished file for reading.
    fn read_unfinished(&self, name: &str) -> io::Result<Box<dyn Read>>;

    /// Removes segments that never got a name.
    fn remove_unfinished(&self) -> io::Result<()>;

    /// Returns the medium of the segments, if it is known.
    fn medium(&self) -> Option<&Medium> {
        None
    }

    /// Returns whether a bit must flip now in this part of the writer's memory.
    #[cfg(feature = "fault-injection")]
    fn flips(&self, _memory: super::faults::Memory) -> bool {
        false
    }
}

/// A segment that is being written.
pub(crate) trait SegmentFile: Send + fmt::Debug {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes all appended bytes durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Returns the identity of this file, unique among all files that exist while it is open.
    fn id(&self) -> FileId;

    /// Returns the file's length in bytes, including bytes that other processes wrote.
    fn length(&self) -> io::Result<u64>;
}

/// The identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// The file to which a name leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) id: FileId,
    pub(crate) length: u64,
}

impl Found {
    fn of(stat: &Stat) -> Self {
        Self {
            id: FileId::of(stat),
            length: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Returns the file name of a segment.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{segment:06}.jsonl")
}

/// Returns the number of the segment that has this name.
pub(crate) fn parse_segment_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let segment = name.strip_suffix(".jsonl")?.parse().ok()?;
    (segment_name(segment) == name).then_some(segment)
}

/// Returns the name of a segment's file before it is published, beside `others` that earlier
/// openings have left.
pub(super) fn unfinished_name(segment: u64, others: u32) -> String {
    let name = segment_name(segment);
    match others {
        0 => name + ".new",
        others => format!("{name}.{others}.new"),
    }
}

/// Returns whether this is the name of an unpublished segment.
pub(super) fn is_unfinished(name: &str) -> bool {
    if !name.ends_with(".new") {
        return false;
    }
    let Some(segment) = name
        .split('.')
        .next()
        .and_then(|number| number.parse().ok())
    else {
        return false;
    };
    (0..=MAX_UNFINISHED).any(|others| unfinished_name(segment, others) == name)
}

/// Whether a trail must exist already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Presence {
    /// Open or create.
    Either,
    /// Create only.
    Refused,
    /// Open only.
    Required,
}

impl Presence {
    /// Checks whether the directory's content fits.
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
    place: Place,
    medium: Medium,
    _locks: Locks,
}

impl Directory {
    /// Renames, unless the name `to` exists. `linkat` is the fallback where the file system does
    /// not support such a rename.
    fn rename_new(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        let dir = &self.dir;
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // Some sandboxes refuse unknown calls with `EPERM`.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
                // If this fails, the next opening removes the file.
                let _removed = rustix::fs::unlinkat(dir, from, AtFlags::empty());
                Ok(())
            }
            other => other,
        }
    }

    fn unlink(&self, name: &str) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
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

/// Opens for reading. Refuses a link, a pipe or a device without waiting for it.
fn open_segment(dir: &OwnedFd, segment: u64) -> io::Result<File> {
    open_to_read(dir, OsStr::new(&segment_name(segment)))
}

/// Refuses a link, a pipe or a device without waiting for it.
fn open_to_read(dir: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("a segment is not a regular file"));
    }
    Ok(File::from(file))
}

impl Storage for Directory {
    type File = AppendFile;

    fn medium(&self) -> Option<&Medium> {
        Some(&self.medium)
    }

    fn segments(&self) -> io::Result<Vec<u64>> {
        segments_in(&self.dir)
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        let file = open_segment(&self.dir, segment)?;
        file.sync_data()?;
        // If a sync of the earlier run has failed, the page cache holds, marked clean, data that
        // the medium does not have, and this sync did not report it. Without those pages, reading
        // shows it.
        if rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).is_err() {
            process::note_refused("fadvise64");
        }
        Ok(())
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
        self.place.check(&self.dir)?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut others = 0;
        loop {
            let name = unfinished_name(segment, others);
            match rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) if others < MAX_UNFINISHED => others = others.saturating_add(1),
                Err(Errno::EXIST) => rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())?,
                file => {
                    let file = File::from(file?);
                    let id = FileId::of(&rustix::fs::fstat(&file)?);
                    return Ok(AppendFile { file, id, name });
                }
            }
        }
    }

    fn publish(&self, segment: u64, file: &AppendFile) -> io::Result<()> {
        match self.rename_new(&file.name, &segment_name(segment)) {
            // An earlier call may have failed after it took effect, or a server repeats the call.
            Err(Errno::EXIST) if self.find(segment)?.is_some_and(|found| found.id == file.id) => {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn discard(&self, segment: u64, file: &AppendFile) -> io::Result<()> {
        self.place.check(&self.dir)?;
        for name in [&segment_name(segment), &file.name] {
            match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileId::of(&stat) == file.id => self.unlink(name)?,
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.sync_names()
    }

    fn find(&self, segment: u64) -> io::Result<Option<Found>> {
        self.place.check(&self.dir)?;
        let name = segment_name(segment);
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Found::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn unfinished(&self) -> io::Result<Vec<String>> {
        let names = names_in(&self.dir)?.into_iter();
        let names = names.filter_map(|name| name.into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_unfinished(name)).collect();
        // Entries other than regular files are not from a writer.
        names.sort_unstable();
        names.retain(|name| {
            let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        });
        Ok(names)
    }

    fn read_unfinished(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(open_to_read(&self.dir, OsStr::new(name))?))
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        for name in self.unfinished()? {
            self.unlink(&name)?;
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
    id: FileId,
    /// The name under which it was created.
    name: String,
}

impl SegmentFile for AppendFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn id(&self) -> FileId {
        self.id
    }

    fn length(&self) -> io::Result<u64> {
        Ok(Found::of(&rustix::fs::fstat(&self.file)?).length)
    }
}
