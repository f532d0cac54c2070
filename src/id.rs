//! Names of shards and models, and, from `vram-trail`, of workers.
//!
//! A name is parsed once, where it enters, and trusted from then on. Names end up in records, logs and beside
//! file names, so their alphabet is narrow. A name is an `Arc<str>` inside: a clone copies no text.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vram_trail::id::{check_bytes, check_length, check_path_syntax, is_id_byte};

/// The maximum length of a [`ShardId`] or [`WorkerId`], in bytes.
pub use vram_trail::id::{IdError, MAX_ID_BYTES, WorkerId};

/// The maximum length of the name in a [`ModelRef`], in bytes.
pub const MAX_MODEL_BYTES: usize = 512;

vram_trail::name! {
    /// The name of a shard: 1 to 256 bytes of ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// Names of tensors fit. The name cannot be mistaken for a path: `..` anywhere and the name `.`
    /// are refused.
    ///
    /// ```
    /// use vram_residency::ShardId;
    ///
    /// let id: ShardId = "model.layers.0.self_attn.q_proj.weight".parse()?;
    /// assert_eq!(id.as_str(), "model.layers.0.self_attn.q_proj.weight");
    /// assert!("llama/7b".parse::<ShardId>().is_err());
    /// # Ok::<(), vram_residency::id::IdError>(())
    /// ```
    ShardId, parse_shard_id
}

/// A reference to a part of a model: the model's name, and part `index` of `total`, counted from 0.
///
/// The name has 1 to 512 bytes of ASCII letters, digits, `-`, `_`, `.`, `/`, `:` and `@`. So
/// `meta-llama/Llama-3.1-8B`, `registry:5000/m:v1` and `org/model@main` fit. The name is never used
/// as a path.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "UncheckedModelRef")]
pub struct ModelRef {
    #[serde(rename = "model")]
    name: Arc<str>,
    #[serde(rename = "model_index")]
    index: u32,
    #[serde(rename = "model_total")]
    total: u32,
}

/// The serialized form of a [`ModelRef`], before it is checked.
#[derive(Deserialize)]
struct UncheckedModelRef {
    model: String,
    model_index: u32,
    model_total: u32,
}

impl ModelRef {
    /// Creates a reference to part `index` of `total` of the model `name`.
    ///
    /// A model in one piece is part 0 of 1.
    ///
    /// # Errors
    ///
    /// - [`IdError::Empty`], [`IdError::TooLong`] or [`IdError::Forbidden`]: the name is not 1 to
    ///   512 bytes of the allowed ones.
    /// - [`IdError::Part`]: `index` is not below `total`.
    ///
    /// # Examples
    ///
    /// ```
    /// use vram_residency::ModelRef;
    ///
    /// let first = ModelRef::new("meta-llama/Llama-3.1-8B", 0, 4)?;
    /// assert_eq!(first.to_string(), "meta-llama/Llama-3.1-8B#0/4");
    /// # Ok::<(), vram_residency::id::IdError>(())
    /// ```
    pub fn new(name: &str, index: u32, total: u32) -> Result<Self, IdError> {
        check_length(name, MAX_MODEL_BYTES)?;
        check_bytes(
            name,
            |byte| is_id_byte(byte) || matches!(byte, b'.' | b'/' | b':' | b'@'),
            "ASCII letters, digits, `-`, `_`, `.`, `/`, `:`, `@`",
        )?;
        if index >= total {
            return Err(IdError::Part { index, total });
        }
        Ok(Self {
            name: name.into(),
            index,
            total,
        })
    }

    /// Returns the model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the index of this part, counted from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the number of parts of the model.
    pub fn total(&self) -> u32 {
        self.total
    }
}

impl TryFrom<UncheckedModelRef> for ModelRef {
    type Error = IdError;

    fn try_from(unchecked: UncheckedModelRef) -> Result<Self, IdError> {
        let UncheckedModelRef {
            model,
            model_index,
            model_total,
        } = unchecked;
        Self::new(&model, model_index, model_total)
    }
}

impl fmt::Display for ModelRef {
    /// Writes the name, then `#index/total`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}/{}", self.name, self.index, self.total)
    }
}

fn parse_shard_id(text: &str) -> Result<Arc<str>, IdError> {
    check_length(text, MAX_ID_BYTES)?;
    check_path_syntax(text)?;
    check_bytes(
        text,
        |byte| is_id_byte(byte) || byte == b'.',
        "ASCII letters, digits, `-`, `_`, `.`",
    )?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_256_bytes_of_a_narrow_alphabet() {
        assert_eq!("".parse::<ShardId>(), Err(IdError::Empty));
        assert!("a".repeat(256).parse::<ShardId>().is_ok());
        assert_eq!(
            "a".repeat(257).parse::<ShardId>(),
            Err(IdError::TooLong { len: 257, max: 256 })
        );
        for byte in 0..=255u8 {
            let allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if let Ok(text) = std::str::from_utf8(&[b'a', byte]) {
                assert_eq!(text.parse::<ShardId>().is_ok(), allowed, "{byte:#x}");
            }
        }
        assert!("shard\u{1b}[2J".parse::<ShardId>().is_err());
        assert!("schärd".parse::<ShardId>().is_err());
    }

    #[test]
    fn shards_take_the_names_of_tensors_and_no_paths() {
        for name in ["model.layers.0.self_attn.q_proj.weight", ".x", "x."] {
            assert!(name.parse::<ShardId>().is_ok(), "{name}");
        }
        for path in [".", "..", "a..b", "../a", "a/b", "a\\b"] {
            assert!(path.parse::<ShardId>().is_err(), "{path}");
        }
    }

    /// Every name that is read goes through its parser.
    #[test]
    fn names_are_written_as_text_and_read_by_their_parser() {
        let shard: ShardId = "a.b".parse().unwrap();
        assert_eq!(serde_json::to_string(&shard).unwrap(), "\"a.b\"");
        assert_eq!(serde_json::from_str::<ShardId>("\"a.b\"").unwrap(), shard);
        let error = serde_json::from_str::<ShardId>("\"a/b\"").unwrap_err();
        assert!(error.to_string().contains("taken for a path"), "{error}");
        assert!(ShardId::try_from("a b".to_owned()).is_err());
        let model = ModelRef::new("org/m@v1", 1, 3).unwrap();
        let json = r#"{"model":"org/m@v1","model_index":1,"model_total":3}"#;
        assert_eq!(serde_json::to_string(&model).unwrap(), json);
        assert_eq!(serde_json::from_str::<ModelRef>(json).unwrap(), model);
        let none = json.replace("\"model_index\":1", "\"model_index\":3");
        assert!(serde_json::from_str::<ModelRef>(&none).is_err());
    }

    #[test]
    fn a_model_reference_takes_registry_names_and_counts_from_0() {
        assert!(ModelRef::new("registry:5000/meta-llama/Llama-3.1_8B", 0, 1).is_ok());
        assert!(ModelRef::new(&"m".repeat(513), 0, 1).is_err());
        assert!(ModelRef::new("", 0, 1).is_err());
        assert!(ModelRef::new("a b", 0, 1).is_err());
        assert_eq!(
            ModelRef::new("m", 2, 2),
            Err(IdError::Part { index: 2, total: 2 })
        );
        assert!(ModelRef::new("m", 0, 0).is_err());
    }
}
