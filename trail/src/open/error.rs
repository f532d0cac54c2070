//! The errors of opening a trail: what failed, on what, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Contradiction;
use crate::event::FORMAT;
use crate::key::{SignError, advice, cannot_sync, remedy};
use crate::process::Forked;
use crate::storage::Medium;

/// The call by which a directory's group gets access.
const BY_NAME: &str = "directory_access(FileAccess::OwnerAndGroup)";

/// The reason why a trail could not be opened. No segment of it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of range.
    #[error("{setting} must be {allowed}")]
    Configuration {
        /// The setting.
        setting: &'static str,
        /// The allowed values.
        allowed: &'static str,
    },
    /// The trail is not the one that an anchor knows. Records that this trail's key has signed were
    /// cut off, or the directory is an older copy that was continued.
    #[error(
        "the trail in {path} contradicts the anchor `{anchor}`, which keeps a checkpoint of {size} records ({contradiction}): keep the directory for the investigation, and put the right one in its place or start a trail in a new one"
    )]
    Contradicts {
        /// The trail's directory.
        path: PathBuf,
        /// The anchor's name.
        anchor: String,
        /// The number of records that its checkpoint covers.
        size: u64,
        /// How the trail contradicts it.
        contradiction: Contradiction,
    },
    /// The trail is damaged before its last checkpoint.
    #[error(
        "the trail in {path} is damaged in {segment} ({detail}): keep it as it is for the investigation and start a trail in a new directory"
    )]
    Damaged {
        /// The trail's directory.
        path: PathBuf,
        /// The segment's file.
        segment: String,
        /// The damage.
        detail: String,
    },
    /// A trail was to be created in a directory that holds one.
    #[error("{path} holds a trail already: open it, or create one in a new directory")]
    Exists {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The C library refuses to register a handler for forks.
    #[error("cannot prepare to notice forks of this process")]
    ForkGuard {
        /// The system's error.
        source: io::Error,
    },
    /// The call was made in a forked child of a process that has opened a trail.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// A system call failed.
    #[error("cannot {operation} {path}{}", advice(.source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The attempted operation.
        operation: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file system cannot make names durable. After a crash, a segment with acknowledged
    /// records could be gone. An existing trail was not changed, and no file of a new one was
    /// created.
    #[error(
        "{path} is on a file system that cannot sync a directory ({file_system}): put the trail on another one, such as a local disk"
    )]
    NamesNotDurable {
        /// The directory.
        path: PathBuf,
        /// The kernel's name of the file system.
        file_system: Arc<str>,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another process, or this one, has the trail open. A trail that was dropped without
    /// [`close`](crate::Trail::close) is open until its last recorder, or holder of one, is
    /// dropped.
    #[error(
        "{path} is open already: a trail has one writer; close it first, or use a directory for each worker"
    )]
    Locked {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The file system has no locks, so a second writer could not be kept out. Only the file `lock`
    /// was created.
    #[error(
        "{path} is on a file system without locks ({file_system}): mount it with them (NFS: version 4, or without `nolock`), or put the trail on another one"
    )]
    NoLocks {
        /// The trail's directory.
        path: PathBuf,
        /// The kernel's name of the file system.
        file_system: Arc<str>,
    },
    /// The directory above the trail's directory does not exist.
    #[error(
        "cannot create {path}, since {parent} does not exist: make that first, or see whether its volume is mounted; a trail's directory is not put into one that is made in passing"
    )]
    NoParent {
        /// The trail's directory.
        path: PathBuf,
        /// The missing directory.
        parent: PathBuf,
    },
    /// A trail was to be opened in a directory that holds none.
    #[error(
        "{path} holds no trail: see whether its volume is mounted; only the first start of a worker creates a trail"
    )]
    NoTrail {
        /// The directory, which may be absent.
        path: PathBuf,
    },
    /// A later version has written the trail's end, in a format that this version does not know.
    #[error(
        "the trail in {path} is written in format {format}, and this version knows formats up to {FORMAT}: open it with the version that wrote it, or start a trail in a new directory"
    )]
    LaterFormat {
        /// The trail's directory.
        path: PathBuf,
        /// The format that its last segment names.
        format: u64,
    },
    /// The path does not lead to a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// An anchor knows another trail of this worker, and not this one. This trail is new, or was
    /// put in the other one's place.
    #[error(
        "the anchor `{anchor}` knows the trail `{origin}` of this worker, and not the one in {path}: give the directory of the trail that it knows, or say that another one is to begin beside it: new_origin_beside(\"{origin}\")"
    )]
    OtherOrigin {
        /// The trail's directory.
        path: PathBuf,
        /// The anchor's name.
        anchor: String,
        /// The origin that it knows.
        origin: String,
    },
    /// The trail belongs to another worker.
    #[error(
        "{path} holds the trail `{origin}`, which is not this worker's: use a directory for each worker"
    )]
    OtherWorker {
        /// The trail's directory.
        path: PathBuf,
        /// The trail's origin.
        origin: String,
    },
    /// The trail is signed with another key.
    #[error(
        "the trail in {path} belongs to the key {theirs}, and the key given is {ours}: give the key that the trail ends with (as `previous_key` if it is to change), or start a trail in a new directory"
    )]
    OtherKey {
        /// The trail's directory.
        path: PathBuf,
        /// The verifier key in the trail.
        theirs: String,
        /// The verifier key of the given key.
        ours: String,
    },
    /// The directory belongs to another user.
    #[error(
        "{path} belongs to user {owner}: use a directory that belongs to the worker's user, or with directory_access(FileAccess::OwnerAndGroup) to root"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// Other users can access the directory.
    #[error(
        "{path} has mode {mode:04o}, {}",
        remedy(*.mode, &format!("chmod 0700 {}, or use a directory below it", .path.display()), BY_NAME)
    )]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system's random number generator failed.
    #[error("no random numbers for the trail's name: {0}")]
    Random(String),
    /// The key could not sign the first checkpoint.
    #[error("the trail's key does not sign")]
    Sign(#[from] SignError),
    /// The path is a symbolic link.
    #[error(
        "{path} is a symbolic link: give the directory itself, so that nobody can redirect the trail"
    )]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
    /// An anchor keeps a checkpoint of this trail that covers more records than the trail has, and
    /// no given key has signed it. Either the trail was cut back to a time before its key was
    /// changed, or the answering server made the checkpoint up.
    #[error(
        "the anchor `{anchor}` keeps a checkpoint of {size} records of the trail in {path}, which has fewer, and no key given has signed it: give the trail's newest key (and the one before as `previous_key`) and the directory that belongs to it, or ignore this anchor's word by name: dangerous_ignore_unverifiable_anchor(\"{anchor}\")"
    )]
    UnverifiableAnchor {
        /// The trail's directory.
        path: PathBuf,
        /// The anchor's name.
        anchor: String,
        /// The number of records that its checkpoint covers.
        size: u64,
    },
}

/// The operation that makes names durable.
pub(crate) const SYNC_DIRECTORY: &str = "sync directory";

impl OpenError {
    /// Converts a failed system call on `path`.
    pub(crate) fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        if operation == SYNC_DIRECTORY && cannot_sync(&source) {
            return Self::NamesNotDurable {
                file_system: Medium::name_at(&path),
                path,
                source,
            };
        }
        Self::Io {
            path,
            operation,
            source,
        }
    }
}
