//! An anchor in a file on the same machine.
//!
//! It detects what happens to the trail's directory alone: a cut by mistake, a restored older copy,
//! a deleted directory. Not defended: deliberate changes by the process itself, or by any code with
//! its rights. Hence its name. The file is read anew for each question, a line at a time, so its
//! length costs time and no memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::checkpoint::MAX_CHECKPOINT_LINE_BYTES;
use super::super::segment::parse_checkpoint;
use super::{Anchor, AnchorError, Checkpoint, Listing};

/// The most bytes of a line, or of a checkpoint in the form of version 0.1. A checkpoint has some
/// hundred bytes, and more with signatures of others.
const MAX_BYTES: usize = MAX_CHECKPOINT_LINE_BYTES;

/// The number of checkpoints in a page.
const PAGE: usize = 4096;

/// Appends each checkpoint to a file on the same machine. The process can rewrite the file, so this
/// is not a real anchor.
///
/// The file (mode 0600) holds one line for each checkpoint, as it stands in a trail, and
/// `vram-audit verify --anchor` reads it. The file is append-only, and is synced before a
/// checkpoint counts as kept. After a crash, bytes behind the last whole line were never kept; they
/// are cut off before the next line is appended. A file of version 0.1, which holds the text of one
/// checkpoint, is continued.
///
/// The file may hold the checkpoints of several trails. So creating a trail fails if the directory
/// of an earlier one was deleted: [`OpenError::OtherOrigin`](super::super::OpenError::OtherOrigin).
/// Of one trail it refuses a checkpoint smaller than the largest one it has, and a second root for
/// a size. It checks no signature: the process that gives a checkpoint has just made it.
///
/// Put the file on another disk than the trail's directory, or at least outside that directory, so
/// that one fault does not hit both. A machine where the process has no rights is better: see
/// [`SocketAnchor`](super::SocketAnchor). A checkpoint has some 300 bytes: one a minute for a year
/// makes 150 MB.
#[derive(Debug)]
pub struct SameHostCopy {
    name: String,
    path: PathBuf,
    /// Where the last page ended, and the least size on the next one.
    resume: Option<Resume>,
    latest: Option<Latest>,
}

/// The checkpoint that was kept last.
#[derive(Debug)]
struct Latest {
    inode: u64,
    /// The length of the file at that time.
    length: u64,
    checkpoint: Checkpoint,
}

/// Where the next page of an origin begins in the file.
#[derive(Debug)]
struct Resume {
    origin: String,
    from: u64,
    offset: u64,
}

impl SameHostCopy {
    /// Keeps checkpoints in the file `path`. Its directory must exist.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        Self {
            name: format!("file:{}", path.display()),
            path,
            resume: None,
            latest: None,
        }
    }

    /// Opens the directory, and returns it with the file's name.
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

    /// Opens the file if it exists. Refuses a link, a pipe or a device without waiting for it.
    fn open(&self, flags: OFlags) -> Result<Option<File>, AnchorError> {
        let (directory, name) = self.place()?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(io_error("open"))?,
        };
        let stat = rustix::fs::fstat(&file).map_err(io_error("stat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused("the path is not a regular file"));
        }
        Ok(Some(file.into()))
    }

    /// Returns the newest checkpoint of a trail, and where the whole lines end.
    fn scan(&self, file: &File, origin: &str) -> Result<(Option<Checkpoint>, u64), AnchorError> {
        let mut lines = Lines::new(file, 0)?;
        let mut newest: Option<Checkpoint> = None;
        while let Some(checkpoint) = lines.next()? {
            let known = newest.as_ref().map_or(0, Checkpoint::size);
            if checkpoint.origin() == origin && checkpoint.size() >= known {
                newest = Some(checkpoint);
            }
        }
        Ok((newest, lines.offset))
    }

    fn append(&mut self, mut file: &File, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let metadata = file.metadata().map_err(io_error("stat"))?;
        let (inode, length) = (metadata.ino(), metadata.len());
        let latest = self.latest.take().filter(|latest| {
            (latest.inode, latest.length) == (inode, length)
                && latest.checkpoint.origin() == checkpoint.origin()
        });
        let (newest, end) = match latest {
            Some(latest) => (Some(latest.checkpoint), length),
            None => self.scan(file, checkpoint.origin())?,
        };
        let newest = newest.filter(|newest| newest.size() >= checkpoint.size());
        let mut line = String::new();
        match newest {
            None => {
                line = checkpoint.to_line().map_err(|error| AnchorError::Io {
                    operation: "encode",
                    source: error.into(),
                })?;
            }
            Some(newest) if newest.size() > checkpoint.size() => {
                let words = format!("the file holds a checkpoint of {} records", newest.size());
                return Err(refused(&words));
            }
            Some(newest) if newest.root() != checkpoint.root() => {
                return Err(refused("the file holds another root of as many records"));
            }
            Some(_) => {}
        }
        if end < length {
            file.set_len(end).map_err(io_error("cut off a torn line"))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(io_error("seek"))?;
        file.write_all(line.as_bytes()).map_err(io_error("write"))?;
        file.sync_all().map_err(io_error("sync"))?;
        if end == 0 {
            // The file may have just been created, so its name must become durable, too.
            let (directory, _) = self.place()?;
            rustix::fs::fsync(&directory).map_err(io_error("sync its directory"))?;
        }
        self.latest = Some(Latest {
            inode,
            length: end.saturating_add(line.len() as u64),
            checkpoint: checkpoint.clone(),
        });
        Ok(())
    }
}

impl Anchor for SameHostCopy {
    fn name(&self) -> &str {
        &self.name
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let Some(file) = self.open(OFlags::RDWR | OFlags::CREATE)? else {
            return Err(io_error("create")(Errno::NOENT));
        };
        // Two processes may use the same file.
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(io_error("lock"))?;
        let kept = self.append(&file, checkpoint);
        // A child that was forked meanwhile holds the lock, too, unless the lock is released
        // explicitly.
        let unlocked = rustix::fs::flock(&file, FlockOperation::Unlock);
        kept.and(unlocked.map_err(io_error("unlock")))
    }

    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        match self.open(OFlags::RDONLY)? {
            Some(file) => Ok(self.scan(&file, origin)?.0),
            None => Ok(None),
        }
    }

    fn checkpoints(&mut self, origin: &str, from: u64) -> Result<Listing<Checkpoint>, AnchorError> {
        let Some(file) = self.open(OFlags::RDONLY)? else {
            return Ok(Listing::Known(Vec::new()));
        };
        let resume = self.resume.take();
        let resume = resume.filter(|resume| resume.from == from && resume.origin == origin);
        let mut lines = Lines::new(&file, resume.map_or(0, |resume| resume.offset))?;
        let mut page = Vec::new();
        let mut least = from;
        while page.len() < PAGE
            && let Some(checkpoint) = lines.next()?
        {
            if checkpoint.origin() == origin && checkpoint.size() >= least {
                least = checkpoint.size().saturating_add(1);
                page.push(checkpoint);
            }
        }
        self.resume = Some(Resume {
            origin: origin.to_owned(),
            from: least,
            offset: lines.offset,
        });
        Ok(Listing::Known(page))
    }

    fn origins(&mut self, worker: &str) -> Result<Listing<String>, AnchorError> {
        let mut origins: Vec<String> = Vec::new();
        if let Some(file) = self.open(OFlags::RDONLY)? {
            let prefix = format!("vram-residency/{worker}/");
            let mut lines = Lines::new(&file, 0)?;
            while let Some(checkpoint) = lines.next()? {
                let origin = checkpoint.origin();
                let is_known = || origins.iter().any(|known| known == origin);
                if origin.starts_with(&prefix) && !is_known() {
                    origins.push(origin.to_owned());
                }
            }
        }
        Ok(Listing::Known(origins))
    }
}

/// Reads the checkpoints of a file, in its order.
struct Lines<'a> {
    source: BufReader<&'a File>,
    /// Where the whole checkpoints that were read end.
    offset: u64,
}

impl<'a> Lines<'a> {
    fn new(mut file: &'a File, offset: u64) -> Result<Self, AnchorError> {
        file.seek(SeekFrom::Start(offset))
            .map_err(io_error("seek"))?;
        let source = BufReader::with_capacity(1 << 16, file);
        Ok(Self { source, offset })
    }

    /// Returns the next checkpoint, or `None` at the end of the file or of its whole lines.
    fn next(&mut self) -> Result<Option<Checkpoint>, AnchorError> {
        let mut text = Vec::new();
        loop {
            let before = text.len();
            let room = MAX_BYTES.saturating_sub(before) as u64;
            let mut rest = self.source.by_ref().take(room);
            let count = rest.read_until(b'\n', &mut text);
            let count = count.map_err(io_error("read"))?;
            if text == b"\n" {
                self.offset = self.offset.saturating_add(1);
                text.clear();
                continue;
            }
            // The form of version 0.1 ends with its last signature. Other keepers may have added
            // lines.
            let line = text.get(before..).unwrap_or_default();
            let has_ended = text.starts_with(b"{")
                || (line.starts_with("—".as_bytes()) && !self.is_signature_next()?);
            if count == 0 || has_ended {
                break;
            }
        }
        let checkpoint = match text.strip_suffix(b"\n") {
            Some(line) if line.starts_with(b"{") => parse_checkpoint(line).ok(),
            Some(_) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok()),
            None => None,
        };
        if let Some(checkpoint) = checkpoint {
            self.offset = self.offset.saturating_add(text.len() as u64);
            return Ok(Some(checkpoint));
        }
        let is_last = self.source.fill_buf().map_err(io_error("read"))?.is_empty();
        if is_last && is_torn(&text) {
            return Ok(None);
        }
        Err(refused("the file holds something else than checkpoints"))
    }

    /// Returns whether the next line begins as a signature line does. No other line begins with
    /// that byte.
    fn is_signature_next(&mut self) -> Result<bool, AnchorError> {
        let next = self.source.fill_buf().map_err(io_error("read"))?;
        Ok(next.first() == "—".as_bytes().first())
    }
}

/// Returns whether a crash can have left these bytes of an unacknowledged line: its beginning, or,
/// in a file that already has the line's length, none of its bytes.
fn is_torn(text: &[u8]) -> bool {
    let start = b"{\"checkpoint\":";
    let common = start.len().min(text.len());
    text.get(..common) == start.get(..common) || text.iter().all(|byte| *byte == 0)
}

fn refused(words: &str) -> AnchorError {
    AnchorError::Refused {
        words: words.to_owned(),
    }
}

fn io_error<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> AnchorError {
    move |source| AnchorError::Io {
        operation,
        source: source.into(),
    }
}
