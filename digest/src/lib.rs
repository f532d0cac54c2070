//! The digest of a shard's bytes: the one that `fsverity digest` prints.
//!
//! Data is split into blocks of 4096 bytes; blocks are hashed with SHA-256, their digests are hashed
//! again in blocks, until one is left, and a descriptor binds the data's length to it. Blocks are
//! independent, so all cores can work at once, and the tree above them, kept from level 1 up, tells
//! which [window](WINDOW_BYTES) of a damaged shard differs. The format is Linux's:
//! `Documentation/filesystems/fsverity.rst`, SHA-256, no salt.
//!
//! This module knows bytes, readers and threads. It knows nothing of devices, shards or seals.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;

mod block;
mod parallel;
mod stream;
mod tree;

pub use block::window_node;
pub use parallel::{helper, nodes_of_windows, threads};
pub use stream::{BUFFERS, StreamError, Streamed, read_slice, read_stream};
pub use tree::Tree;

/// The unit that is hashed, in bytes: the block size of fs-verity.
pub const BLOCK_BYTES: usize = 4096;

/// The unit in which a kept tree can be checked, in bytes: 128 blocks, 512 KiB.
pub const WINDOW_BYTES: usize = 128 * BLOCK_BYTES;

/// One digest inside a tree.
pub type Node = [u8; NODE_BYTES];

/// The size of a node, in bytes.
pub const NODE_BYTES: usize = 32;

/// How much is handed out at a time, to a thread or to a device, in bytes.
pub const CHUNK_BYTES: usize = 2 * WINDOW_BYTES;

/// How far a long step has come, in bytes.
///
/// It is told on the thread that asked for the step, while other threads or a GPU may go on: a callback that
/// takes its time delays the answer, not the work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes to be done in all.
    pub total: u64,
}

impl Progress {
    /// So many bytes done of so many.
    pub const fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// What is computed over a stream while it is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Stream {
    /// The tree only, on all cores.
    TreeOnly,
    /// The plain SHA-256 of the stream as well. It is serial: one core computes it, at some 1.5 GB/s
    /// where SHA has instructions of its own.
    WithSha256,
}

/// The progress callback answered [`ControlFlow::Break`](std::ops::ControlFlow::Break).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("stopped by the progress callback")]
#[non_exhaustive]
pub struct Stopped;

impl Stopped {
    /// For steps that other crates build on this one.
    #[doc(hidden)]
    pub const fn by_callback() -> Self {
        Self
    }
}

/// A text that is no digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is something else than hexadecimal digits.
    #[error("a digest consists of hexadecimal digits, after an optional `sha256:`")]
    Digit,
    /// The number of digits is not 64.
    #[error("a digest has 64 hexadecimal digits, not {digits}")]
    Length {
        /// Bytes of text found.
        digits: usize,
    },
}

macro_rules! digest_type {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        ///
        /// Parsed from 64 hexadecimal digits with an optional `sha256:` before them, shown as 64
        /// lower-case ones, compared in constant time.
        #[derive(Clone, Copy)]
        pub struct $name([u8; NODE_BYTES]);

        impl $name {
            /// The digest with these bytes.
            pub const fn from_bytes(bytes: [u8; NODE_BYTES]) -> Self {
                Self(bytes)
            }

            /// The digest's bytes.
            pub const fn as_bytes(&self) -> &[u8; NODE_BYTES] {
                &self.0
            }
        }

        impl Eq for $name {}

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        /// By bytes, from the first one on; not in constant time.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.cmp(&other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

digest_type! {
    /// The fs-verity digest of some data: what `fsverity digest` prints for a file.
    Digest
}

digest_type! {
    /// The plain SHA-256 of a stream: what `sha256sum` prints for a file.
    StreamDigest
}

impl Digest {
    /// The digest of everything that `reader` yields, computed on all cores.
    ///
    /// Needs 8 MiB for buffers and 32 bytes for each 512 KiB read. The error is the reader's;
    /// `Interrupted` is retried.
    ///
    /// ```
    /// use vram_digest::Digest;
    ///
    /// let digest = Digest::of_reader(&b""[..])?;
    /// assert_eq!(
    ///     digest.to_string(),
    ///     "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    /// );
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn of_reader(reader: impl Read) -> io::Result<Self> {
        Digests::of_reader(reader, Stream::TreeOnly).map(|digests| digests.digest)
    }
}

/// The digests of one stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Digests {
    /// What `fsverity digest` prints.
    pub digest: Digest,
    /// What `sha256sum` prints, if it was asked for.
    pub sha256: Option<StreamDigest>,
}

impl Digests {
    /// The digests of everything that `reader` yields, in one pass.
    ///
    /// Memory and errors are those of [`Digest::of_reader`].
    pub fn of_reader(reader: impl Read, stream: Stream) -> io::Result<Self> {
        let streamed = stream::whole_reader(reader, stream)?;
        Ok(Self {
            digest: streamed.tree.digest(),
            sha256: streamed.sha256,
        })
    }
}

fn parse(text: &str) -> Result<[u8; NODE_BYTES], DigestError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let mut bytes = [0; NODE_BYTES];
    match hex::decode_to_slice(digits, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(hex::FromHexError::InvalidHexCharacter { .. }) => Err(DigestError::Digit),
        Err(_) => Err(DigestError::Length {
            digits: digits.len(),
        }),
    }
}
