//! Texts from other code, or with quotes of it: of a caller, an anchor, a signer, a driver.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::MAX_TEXT_BYTES;

/// The mark at the end of a text that was cut.
const CUT: &str = "…";

/// A text of at most [`MAX_TEXT_BYTES`] bytes, so that no record's line exceeds the limit for
/// lines. A longer text is cut, and then ends in `…`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Text(Arc<str>);

impl From<Arc<str>> for Text {
    /// Does not allocate, unless it has to cut.
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
