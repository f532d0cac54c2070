//! The digest of a shard's bytes, equal to the output of `fsverity digest`.
//!
//! The data is split into blocks of 4096 bytes, and each block is hashed with SHA-256. The digests
//! are packed into blocks and hashed again, until one digest is left. A descriptor binds the length
//! of the data to that digest.
//!
//! Blocks are independent, so all cores can work at once. The tree above the blocks, kept from
//! level 1 up, shows which [window](WINDOW_BYTES) of a damaged shard differs. The format is
//! Linux's: `Documentation/filesystems/fsverity.rst`, SHA-256, no salt.
//!
//! This crate knows bytes, readers and threads. It does not know devices, shards or seals.

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

/// The unit of hashing, in bytes: the block size of fs-verity.
pub const BLOCK_BYTES: usize = 4096;

/// The unit of checking against a kept tree, in bytes: 128 blocks, 512 KiB.
pub const WINDOW_BYTES: usize = 128 * BLOCK_BYTES;

/// One digest inside a tree.
pub type Node = [u8; NODE_BYTES];

/// The size of a node, in bytes.
pub const NODE_BYTES: usize = 32;

/// The unit of work for a thread or a device, in bytes.
pub const CHUNK_BYTES: usize = 2 * WINDOW_BYTES;

/// The progress of a long operation, in bytes.
///
/// The callback runs on the calling thread, while other threads or a GPU may continue. A slow
/// callback delays the answer, not the work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Total bytes to do.
    pub total: u64,
}

impl Progress {
    /// So many bytes done of so many.
    pub const fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// The digests that are computed over a stream while it is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Stream {
    /// Only the tree, on all cores.
    TreeOnly,
    /// The tree, and the plain SHA-256 of the stream.
    ///
    /// The plain SHA-256 is serial: one core computes it, at about 1.5 GB/s with SHA instructions.
    WithSha256,
}

/// The progress callback returned [`ControlFlow::Break`](std::ops::ControlFlow::Break).
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

/// The reason why a text is not a digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text contains something other than hexadecimal digits.
    #[error("a digest consists of hexadecimal digits, after an optional `sha256:`")]
    Digit,
    /// The number of digits is not 64.
    #[error("a digest has 64 hexadecimal digits, not {digits}")]
    Length {
        /// Length of the given text, in bytes.
        digits: usize,
    },
}

macro_rules! digest_type {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        ///
        /// Parses from 64 hexadecimal digits with an optional prefix `sha256:`. Displays as 64
        /// lower-case digits. Equality is compared in constant time.
        #[derive(Clone, Copy)]
        pub struct $name([u8; NODE_BYTES]);

        impl $name {
            /// Creates the digest from its bytes.
            pub const fn from_bytes(bytes: [u8; NODE_BYTES]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes of the digest.
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

        /// Compares byte by byte from the first, not in constant time.
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
    /// The fs-verity digest of some data, equal to the output of `fsverity digest` for a file.
    Digest
}

digest_type! {
    /// The plain SHA-256 of a stream, equal to the output of `sha256sum` for a file.
    StreamDigest
}

impl Digest {
    /// Computes the digest of everything that `reader` yields, on all cores.
    ///
    /// Uses 8 MiB for buffers and 32 bytes for each 512 KiB read.
    ///
    /// # Errors
    ///
    /// Returns the reader's error; `Interrupted` is retried.
    ///
    /// # Examples
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
    /// The fs-verity digest, as `fsverity digest` prints it.
    pub digest: Digest,
    /// The plain SHA-256 as `sha256sum` prints it, if requested.
    pub sha256: Option<StreamDigest>,
}

impl Digests {
    /// Computes the digests of everything that `reader` yields, in one pass.
    ///
    /// Uses as much memory as [`Digest::of_reader`].
    ///
    /// # Errors
    ///
    /// Returns the reader's error; `Interrupted` is retried.
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
