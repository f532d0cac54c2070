//! An anchor in a file on the same machine.
//!
//! It finds what happens to the trail's directory alone: a cut by mistake, a restored older copy, a
//! directory that was deleted. It finds nothing that the worker itself, or whoever has its rights,
//! does on purpose: hence its name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::checkpoint::MAX_NOTE_BYTES;
use super::{Anchor, AnchorError, Checkpoint};

/// The most bytes that are read: a checkpoint has some hundred, and more if others have signed it, too.
const MAX_BYTES: u64 = MAX_NOTE_BYTES as u64;

/// Keeps the newest checkpoint in a file, which the worker can rewrite: no real anchor.
///
/// The file (mode 0600) holds the checkpoint's text and nothing else, as `vram-audit verify --anchor`
/// takes it. It is replaced by a rename, synced before and behind, so at any time it holds one whole
/// checkpoint. It never goes back to a smaller one, and never replaces that of another trail: so a
/// trail whose directory was deleted is noticed when the next one is opened, as `AnchorFailed`. Move
/// the file away if that was meant to be.
///
/// Put it on another disk than the trail's directory, or at least not into that directory: what
/// happens to one should not happen to the other. To have it on a machine where the worker has no
/// rights is better; see [`SocketAnchor`](super::SocketAnchor).
#[derive(Debug)]
pub struct SameHostCopy {
    name: String,
    path: PathBuf,
}

impl SameHostCopy {
    /// Keeps checkpoints in `path`. Its directory must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            name: format!("file:{}", path.display()),
            path,
        }
    }

    /// The directory, and the file's name in it.
    fn place(&self) -> Result<(OwnedFd, &std::ffi::OsStr), AnchorError> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = self.path.file_name().ok_or(Errno::ISDIR);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(directory, flags, Mode::empty());
        name.and_then(|name| Ok((open()?, name)))
            .map_err(io_error("open its directory"))
    }
}

impl Anchor for SameHostCopy {
    fn name(&self) -> &str {
        &self.name
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let (directory, name) = self.place()?;
        if let Some(kept) = read(&directory, name)? {
            let words = if kept.origin() != checkpoint.origin() {
                format!("the file holds a checkpoint of the trail {}", kept.origin())
            } else if kept.size() > checkpoint.size() {
                format!("the file holds a checkpoint of {} records", kept.size())
            } else {
                String::new()
            };
            if !words.is_empty() {
                return Err(AnchorError::Refused { words });
            }
        }
        replace(&directory, name, checkpoint.to_string().as_bytes())
    }

    fn newest(&mut self, _origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        let (directory, name) = self.place()?;
        read(&directory, name)
    }
}

/// A link, a pipe or a device is refused without waiting for it.
fn read(directory: &OwnedFd, name: &std::ffi::OsStr) -> Result<Option<Checkpoint>, AnchorError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(io_error("open"))?,
    };
    let stat = rustix::fs::fstat(&file).map_err(io_error("stat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(AnchorError::Refused {
            words: "the path is not a regular file".into(),
        });
    }
    let mut text = String::new();
    File::from(file)
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(io_error("read"))?;
    match text.parse() {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(_) => Err(AnchorError::Refused {
            words: "the file holds something else than a checkpoint".into(),
        }),
    }
}

fn replace(directory: &OwnedFd, name: &std::ffi::OsStr, bytes: &[u8]) -> Result<(), AnchorError> {
    let mut new = name.to_owned();
    new.push(".new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let create = || rustix::fs::openat(directory, &new, flags, Mode::RUSR | Mode::WUSR);
    let file = match create() {
        // A process that was killed has left it.
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, &new, AtFlags::empty()).and_then(|()| create())
        }
        other => other,
    };
    let mut file = File::from(file.map_err(io_error("create"))?);
    file.write_all(bytes).map_err(io_error("write"))?;
    file.sync_all().map_err(io_error("sync"))?;
    rustix::fs::renameat(directory, &new, directory, name).map_err(io_error("rename"))?;
    rustix::fs::fsync(directory).map_err(io_error("sync its directory"))
}

fn io_error<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> AnchorError {
    move |source| AnchorError::Io {
        operation,
        source: source.into(),
    }
}
