//! The files of a trail, for readers: lists the segments and opens them.
//!
//! Any writer of the disk chooses what lies there, so nothing here follows a link or waits for a
//! pipe. The writer accesses the same files through `storage`, under a lock.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use super::segment;
pub(super) use super::storage::may_be_held;
use super::storage::{parse_segment_name, segment_name};

/// Returns the numbers of the segments in `dir`, ascending. Ignores other files.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        numbers.extend(parse_segment_name(&entry?.file_name()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment without following a link and without waiting for a pipe's other end.
pub(super) fn open(dir: &Path, number: u64) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(
        dir.join(segment_name(number)),
        flags,
        Mode::empty(),
    )?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Makes segment `number` durable, and ensures that later reads return what the medium holds. After
/// a writer whose sync has failed, the page cache holds more. A file system that is read-only
/// or has no sync holds nothing that is not durable.
pub(super) fn make_durable(dir: &Path, number: u64) -> io::Result<()> {
    let file = open(dir, number)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let names = rustix::fs::open(dir, flags, Mode::empty())?;
    for answer in [
        rustix::fs::fdatasync(&file),
        rustix::fs::fsync(&names),
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed),
    ] {
        match answer {
            Ok(()) | Err(Errno::INVAL | Errno::ROFS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Returns where the acknowledged part of segment `number` ends, as the `next` existing segment
/// states it. `None` if that segment is absent or does not state it; that is reported when the
/// segment is read.
pub(super) fn stated_end(dir: &Path, number: u64, next: Option<u64>) -> Option<u64> {
    let next = next.filter(|next| Some(*next) == number.checked_add(1))?;
    let header = segment::read_header(open(dir, next).ok()?).ok().flatten()?;
    Some(header.previous?.end)
}
