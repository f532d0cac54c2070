//! Texts that come from elsewhere, or quote what does: a caller's, an anchor's, a signer's, a driver's.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::MAX_TEXT_BYTES;

/// What a longer text ends in.
const CUT: &str = "…";

/// A text of at most [`MAX_TEXT_BYTES`] bytes, so that no record's line gets longer than a line may
/// be, whoever's words it holds. What is longer is cut, and ends in `…`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Text(Arc<str>);

impl From<Arc<str>> for Text {
    /// Allocates nothing, unless it has to cut.
    fn from(text: Arc<str>) -> Self {
        if text.len() <= MAX_TEXT_BYTES {
            return Self(text);
        }
        let kept = (0..=MAX_TEXT_BYTES.saturating_sub(CUT.len()))
            .rev()
            .find_map(|end| text.get(..end));
        Self(format!("{}{CUT}", kept.unwrap_or_default()).into())
    }
}

impl From<&Arc<str>> for Text {
    fn from(text: &Arc<str>) -> Self {
        Arc::clone(text).into()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Arc::<str>::from(text).into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Arc::<str>::from(text).into()
    }
}

impl From<Text> for Arc<str> {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_two_characters() {
        for (given, kept) in [
            ("x".repeat(MAX_TEXT_BYTES), "x".repeat(MAX_TEXT_BYTES)),
            (
                "x".repeat(MAX_TEXT_BYTES + 1),
                "x".repeat(MAX_TEXT_BYTES - 3) + "…",
            ),
            ("é".repeat(70_000), "é".repeat(510) + "…"),
            ("🦀".repeat(70_000), "🦀".repeat(255) + "…"),
        ] {
            assert_eq!(&*Text::from(given), kept);
        }
    }
}
