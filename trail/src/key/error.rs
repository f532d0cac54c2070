//! The errors of tokens, keys and signatures.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::access::remedy;
use super::file::advice;

/// The call by which a secret's group gets access.
const BY_NAME: &str = "from_file(.., FileAccess::OwnerAndGroup)";

/// The reason why a token or key was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file grants more access than allowed.
    #[error(
        "the secret {path} has mode {mode:03o}, {}",
        remedy(*.mode, &format!("chmod {advice:03o} {}", .path.display()), BY_NAME)
    )]
    #[non_exhaustive]
    Access {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have.
        advice: u32,
    },
    /// A key was to be created at a path where there is a file.
    #[error("{path} exists already: open it, or name a file that does not exist")]
    #[non_exhaustive]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or created.
    #[error("cannot {operation} {path}{}", advice(.source))]
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        operation: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file holds no Ed25519 key.
    #[error(
        "{path} holds no Ed25519 private key in PEM (PKCS#8): name a file that does, or one that does not exist yet"
    )]
    #[non_exhaustive]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The given text is no Ed25519 key.
    #[error("the text given is no Ed25519 private key in PEM (PKCS#8)")]
    MalformedPem,
    /// The file system cannot make names durable. After a crash the key could be gone, and a trail
    /// without its key cannot be continued. No key was created.
    #[error(
        "{directory} is on a file system that cannot sync a directory: make the key on another one, such as a local disk"
    )]
    #[non_exhaustive]
    NamesNotDurable {
        /// The directory.
        directory: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The directory in which the key would be created does not exist.
    #[error(
        "{directory} does not exist: make it first (mode 0700); a key is not put into a directory made in passing"
    )]
    #[non_exhaustive]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The file is a directory, a pipe or a device.
    #[error("{path} is not a regular file")]
    #[non_exhaustive]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to another user.
    #[error(
        "{path} belongs to user {owner}: it must belong to the user of this process, or to root"
    )]
    #[non_exhaustive]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user that owns it.
        owner: u32,
    },
    /// The bytes are no Ed25519 public key, or one of small order, which would fit any message.
    #[error("the signer's public key is not a usable Ed25519 key")]
    PublicKey,
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    #[non_exhaustive]
    Random {
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any secret of its kind.
    #[error("{path} has more than {max} bytes: it is not the file of a secret")]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        max: u64,
    },
    /// The token is so short that it could be guessed.
    #[error("a worker token needs at least {min} bytes of secret, this one has {len}")]
    TokenTooShort {
        /// The token's length, in bytes.
        len: usize,
        /// The least length, in bytes.
        min: usize,
    },
}

/// The trail's key gave no usable signature. Nothing was written with it, and it is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signer failed.
    #[error("the trail's signer failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The signature is not valid for the message under the trail's key. Either a supplied signer
    /// has another key, or a bit has flipped in a signer. The signature was discarded.
    #[error(
        "the trail's signer made a signature that its public key refuses: see whether it has the right key, and check the machine's memory"
    )]
    Wrong,
}
