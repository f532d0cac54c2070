//! Why a trail could not be opened: what failed, on what, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Contradiction;
use crate::event::FORMAT;
use crate::key::{SignError, advice, cannot_sync, remedy};
use crate::process::Forked;
use crate::storage::Medium;

/// How to say that a directory's group may have it.
const BY_NAME: &str = "directory_access(FileAccess::OwnerAndGroup)";

/// Why a trail could not be opened. No segment of it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting makes no sense.
    #[error("{setting} must be {allowed}")]
    Configuration {
        /// Which one.
        setting: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The trail is not the one that an anchor knows: records that this trail's key has vouched for
    /// were cut off, or the directory is an older copy that went on.
    #[error(
        "the trail in {path} contradicts the anchor `{anchor}`, which keeps a checkpoint of {size} records ({contradiction}): keep the directory for the investigation, and put the right one in its place or start a trail in a new one"
    )]
    Contradicts {
        /// The trail's directory.
        path: PathBuf,
        /// The anchor's name.
        anchor: String,
        /// How many records its checkpoint covers.
        size: u64,
        /// What is wrong with them.
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
        /// What is wrong.
        detail: String,
    },
    /// A trail was to be created where there is one.
    #[error("{path} holds a trail already: open it, or create one in a new directory")]
    Exists {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The C library cannot be asked to say when the process forks.
    #[error("cannot prepare to notice forks of this process")]
    ForkGuard {
        /// Its answer.
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
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file system cannot make names durable: after a crash, a segment could be gone with records
    /// that were acknowledged. A trail that is there was not changed; of a new one nothing was made.
    #[error(
        "{path} is on a file system that cannot sync a directory ({file_system}): put the trail on another one, such as a local disk"
    )]
    NamesNotDurable {
        /// The directory.
        path: PathBuf,
        /// What the kernel calls the file system.
        file_system: Arc<str>,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process has the trail open, or this one has: a trail that was dropped without
    /// [`close`](crate::Trail::close) is open until its last shard or lease is gone.
    #[error(
        "{path} is open already: a trail has one writer; close it first, or use a directory for each worker"
    )]
    Locked {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The file system has no locks, so a second writer could not be kept out. Only the file `lock` was
    /// made.
    #[error(
        "{path} is on a file system without locks ({file_system}): mount it with them (NFS: version 4, or without `nolock`), or put the trail on another one"
    )]
    NoLocks {
        /// The trail's directory.
        path: PathBuf,
        /// What the kernel calls the file system.
        file_system: Arc<str>,
    },
    /// The directory in which the trail's would be made does not exist.
    #[error(
        "cannot create {path}, since {parent} does not exist: make that first, or see whether its volume is mounted; a trail's directory is not put into one that is made in passing"
    )]
    NoParent {
        /// The trail's directory.
        path: PathBuf,
        /// The directory that is missing.
        parent: PathBuf,
    },
    /// A trail was to be opened where there is none.
    #[error(
        "{path} holds no trail: see whether its volume is mounted; only the first start of a worker creates a trail"
    )]
    NoTrail {
        /// The directory, which may be absent.
        path: PathBuf,
    },
    /// A later version has written the trail's end, by rules that this one does not know.
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
    /// An anchor knows another trail of this worker, and nothing of this one, which is new or was put
    /// in the other one's place.
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
    /// The trail is that of another worker.
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
        /// The verifier key that the trail names.
        theirs: String,
        /// The verifier key of the key given.
        ours: String,
    },
    /// The directory belongs to somebody else.
    #[error(
        "{path} belongs to user {owner}: use a directory that belongs to the worker's user, or with directory_access(FileAccess::OwnerAndGroup) to root"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// Others can reach the directory.
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
    /// An anchor keeps a checkpoint of this trail that covers more records than there are, and none of
    /// the keys given has signed it. Either the trail was cut back to a time before its key was
    /// changed, or whoever answers there makes it up.
    #[error(
        "the anchor `{anchor}` keeps a checkpoint of {size} records of the trail in {path}, which has fewer, and no key given has signed it: give the trail's newest key (and the one before as `previous_key`) and the directory that belongs to it, or ignore this anchor's word by name: dangerous_ignore_unverifiable_anchor(\"{anchor}\")"
    )]
    UnverifiableAnchor {
        /// The trail's directory.
        path: PathBuf,
        /// The anchor's name.
        anchor: String,
        /// How many records its checkpoint covers.
        size: u64,
    },
}

/// The operation that makes names durable.
pub(crate) const SYNC_DIRECTORY: &str = "sync directory";

impl OpenError {
    /// A system call on `path` has failed.
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
