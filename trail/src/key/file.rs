//! Files of secrets: read only if owner and mode show that they are secret, and created with such a
//! mode.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{FileAccess, KeyError};

/// Reads a whole file whose owner and mode show that it is a secret.
///
/// Owner and mode are read from the opened file, so it cannot be exchanged in between. A pipe is
/// refused without waiting for its other end.
///
/// # Errors
///
/// [`KeyError`] with the cause and what to do.
pub fn read_secret(
    path: &Path,
    access: FileAccess,
    max: u64,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::from_ne_bytes(flags.to_ne_bytes()))
        .open(path)
        .map_err(|source| file_error(path, "open", source))?;
    check_access(path, &file, access)?;
    // Reserved at once: a vector that grows leaves copies behind.
    let capacity = usize::try_from(max).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| file_error(path, "read", source))?;
    if bytes.len() >= capacity {
        return Err(KeyError::TooLarge {
            path: path.into(),
            max,
        });
    }
    Ok(bytes)
}

fn check_access(path: &Path, file: &File, access: FileAccess) -> Result<(), KeyError> {
    // Not `File::metadata`, which calls `statx`: some sandboxes refuse it.
    let stat =
        rustix::fs::fstat(file).map_err(|errno| file_error(path, "inspect", errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyError::NotAFile { path: path.into() });
    }
    let owner = stat.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Owner {
            path: path.into(),
            owner,
        });
    }
    let mode = stat.st_mode & 0o777;
    if access.allows(mode) {
        return Ok(());
    }
    Err(KeyError::Access {
        path: path.into(),
        mode,
        advice: 0o600,
    })
}

/// Returns advice on a failed system call, where the cause allows it.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": let the worker's user read and write there",
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => ": make room there",
        io::ErrorKind::ReadOnlyFilesystem => ": mount its volume for writing",
        _ => "",
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), KeyError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyError::NoDirectory {
            directory: directory.into(),
        },
        _ if cannot_sync(&source) => KeyError::NamesNotDurable {
            directory: directory.into(),
            source,
        },
        _ => file_error(directory, "sync the directory", source),
    })
}

/// Returns whether a sync has failed because it is not supported, as for directories on some file
/// systems.
pub(crate) fn cannot_sync(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
    )
}

pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn file_error(path: &Path, operation: &'static str, source: io::Error) -> KeyError {
    KeyError::File {
        path: path.into(),
        operation,
        source,
    }
}
