//! Who, besides the process's user, may read a secret or write a trail's directory. The user
//! chooses it explicitly, and the trail records it.
//!
//! This module knows permission bits. It does not know whose files they are.

use serde::Serialize;

/// Who may read a file of a secret (a token, a trail's key), or use a trail's directory.
///
/// Users who are neither the owner nor in the group never may.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileAccess {
    /// The group may have the owner's bits. Kubernetes gives them to the group of a pod (`fsGroup`)
    /// at each mount: 0440 to the files of a secret, 0660 and 2770 to files and directories of a
    /// volume.
    ///
    /// Every member of the group can then do in the process's place what the file or directory is
    /// for: seal, sign, write. So write access to the file of a secret adds nothing to read access.
    OwnerAndGroup,
    /// The owner alone (modes 0600 and 0400; 0700 for a directory).
    OwnerOnly,
}

impl FileAccess {
    /// Returns whether a file with these permission bits is closed enough.
    pub(crate) fn allows(self, mode: u32) -> bool {
        let forbidden = match self {
            Self::OwnerAndGroup => 0o007,
            Self::OwnerOnly => 0o077,
        };
        mode & forbidden == 0
    }
}

/// Returns the advice for a file or directory that is not closed enough: `chmod` it, or, where only
/// its group has access, allow that with the call `by_name`.
pub(crate) fn remedy(mode: u32, chmod: &str, by_name: &str) -> String {
    if FileAccess::OwnerAndGroup.allows(mode) {
        format!(
            "so its group can reach it: {chmod}, or allow that by name where the group has its bits \
             from Kubernetes: {by_name}"
        )
    } else {
        format!("so others can reach it: {chmod}")
    }
}

/// The source of a secret, and who else could read it there, as the trail records it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Custody {
    /// The caller had it in memory.
    Memory,
    /// A file that its group may read, too.
    OwnerAndGroup,
    /// A file of the process's user or root alone.
    OwnerOnly,
    /// The key stays elsewhere, and signs there.
    Signer,
}

impl From<FileAccess> for Custody {
    fn from(access: FileAccess) -> Self {
        match access {
            FileAccess::OwnerAndGroup => Self::OwnerAndGroup,
            FileAccess::OwnerOnly => Self::OwnerOnly,
        }
    }
}
