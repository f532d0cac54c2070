//! The name of a worker, and the rules of names.
//!
//! A name is parsed once, where it enters, and trusted from then on. Names end up in records, logs
//! and beside file names, so their alphabet is narrow. A name is an `Arc<str>` inside: a clone
//! copies no text. What a name refers to is not known here.

use std::sync::Arc;

/// The most bytes that a [`WorkerId`] may have.
pub const MAX_ID_BYTES: usize = 256;

/// Defines a name that is one string and parsed by `$parse`, whatever its source.
#[doc(hidden)]
#[macro_export]
macro_rules! name {
    ($(#[$docs:meta])* $name:ident, $parse:path) => {
        $(#[$docs])*
        #[derive(
            Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
        )]
        #[serde(try_from = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::id::IdError;

            fn from_str(text: &str) -> Result<Self, $crate::id::IdError> {
                $parse(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::id::IdError;

            fn try_from(text: String) -> Result<Self, $crate::id::IdError> {
                text.parse()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a worker: 1 to 256 bytes of ASCII letters, digits, `-` and `_`.
    WorkerId, parse_worker_id
}

/// The reason why a name was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The name has no bytes.
    #[error("a name must not be empty")]
    Empty,
    /// The name contains a byte that this kind of name does not allow.
    #[error("byte 0x{byte:02x} at offset {offset} is not allowed here: use {allowed}")]
    Forbidden {
        /// The refused byte.
        byte: u8,
        /// The offset of the byte, in bytes from 0.
        offset: usize,
        /// The allowed bytes, in words.
        allowed: &'static str,
    },
    /// The index of the part is not below the number of parts.
    #[error("part {index} of {total} does not exist: parts are counted from 0")]
    Part {
        /// The given index.
        index: u32,
        /// The given number of parts.
        total: u32,
    },
    /// The name contains text that has a meaning in paths.
    #[error("`{0}` is not allowed in a name: it could be taken for a path")]
    PathSyntax(&'static str),
    /// The name is too long.
    #[error("the name has {len} bytes: the most is {max}")]
    TooLong {
        /// The given length, in bytes.
        len: usize,
        /// The maximum length, in bytes.
        max: usize,
    },
}

fn parse_worker_id(text: &str) -> Result<Arc<str>, IdError> {
    check_length(text, MAX_ID_BYTES)?;
    check_path_syntax(text)?;
    check_bytes(text, is_id_byte, "ASCII letters, digits, `-`, `_`")?;
    Ok(text.into())
}

#[doc(hidden)]
pub fn check_length(text: &str, max: usize) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        len if len > max => Err(IdError::TooLong { len, max }),
        _ => Ok(()),
    }
}

/// Checks the first layer: the allowed bytes.
#[doc(hidden)]
pub fn check_bytes(
    text: &str,
    allowed: impl Fn(u8) -> bool,
    description: &'static str,
) -> Result<(), IdError> {
    match text.bytes().enumerate().find(|(_, byte)| !allowed(*byte)) {
        None => Ok(()),
        Some((offset, byte)) => Err(IdError::Forbidden {
            byte,
            offset,
            allowed: description,
        }),
    }
}

/// Checks the second layer, which does not rely on the first: a name cannot leave a directory or
/// stand for one.
#[doc(hidden)]
pub fn check_path_syntax(text: &str) -> Result<(), IdError> {
    if text == "." {
        return Err(IdError::PathSyntax("."));
    }
    match ["..", "/", "\\"]
        .into_iter()
        .find(|part| text.contains(part))
    {
        None => Ok(()),
        Some(part) => Err(IdError::PathSyntax(part)),
    }
}

#[doc(hidden)]
pub fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_256_bytes_of_a_narrow_alphabet() {
        assert_eq!("".parse::<WorkerId>(), Err(IdError::Empty));
        assert!("a".repeat(256).parse::<WorkerId>().is_ok());
        assert_eq!(
            "a".repeat(257).parse::<WorkerId>(),
            Err(IdError::TooLong { len: 257, max: 256 })
        );
        for byte in 0..=255u8 {
            let allowed = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if let Ok(text) = std::str::from_utf8(&[b'a', byte]) {
                assert_eq!(text.parse::<WorkerId>().is_ok(), allowed, "{byte:#x}");
            }
        }
        assert!("worker\u{1b}[2J".parse::<WorkerId>().is_err());
        assert!("wörker".parse::<WorkerId>().is_err());
        assert!(serde_json::from_str::<WorkerId>("\"a.b\"").is_err());
    }

    #[test]
    fn the_second_layer_stands_by_itself() {
        assert_eq!(check_path_syntax("a..b"), Err(IdError::PathSyntax("..")));
        assert_eq!(check_path_syntax("a/b"), Err(IdError::PathSyntax("/")));
        assert_eq!(check_path_syntax("a\\b"), Err(IdError::PathSyntax("\\")));
        assert_eq!(check_path_syntax("."), Err(IdError::PathSyntax(".")));
        assert_eq!(check_path_syntax("a.b"), Ok(()));
    }
}
