//! The names in a condition of `show`, and whether they occur in the trail at all.
//!
//! A mistyped name finds nothing, and nothing is what a reviewer hopes to find. So a name that
//! never occurs is reported, with the nearest one that does. This module knows names. It does not
//! know what they mean.

/// Longer names in a trail are not compared, since the trail's author chose them.
const MAX_COMPARED_BYTES: usize = 256;

/// The names given with one option.
pub(super) struct Wanted {
    /// A noun phrase for the report that none of the names occurs.
    none: &'static str,
    names: Vec<Name>,
}

struct Name {
    name: String,
    occurs: bool,
    /// The nearest other name so far, and its distance.
    nearest: Option<(usize, String)>,
}

impl Wanted {
    /// Takes the requested names. `known` are names that may be requested although they do not
    /// occur.
    pub(super) fn new(
        none: &'static str,
        names: &[String],
        known: impl Iterator<Item = &'static str>,
    ) -> Self {
        let names = names.iter().map(|name| Name {
            name: name.clone(),
            occurs: false,
            nearest: None,
        });
        let mut wanted = Self {
            none,
            names: names.collect(),
        };
        for name in known {
            wanted.takes(name);
        }
        wanted
    }

    /// Returns whether a record with this name is requested.
    pub(super) fn takes(&mut self, found: &str) -> bool {
        let mut takes = self.names.is_empty();
        for name in &mut self.names {
            if name.name == found {
                name.occurs = true;
                takes = true;
            } else if !name.occurs {
                name.compare(found);
            }
        }
        takes
    }

    /// Returns a message for each name that was not found.
    pub(super) fn complaints(&self) -> impl Iterator<Item = String> {
        let unfound = self.names.iter().filter(|name| !name.occurs);
        unfound.map(|name| {
            let hint = name.hint().map(|near| format!("; did you mean {near}?"));
            let hint = hint.unwrap_or_default();
            format!("{} {}{hint}", self.none, name.name)
        })
    }
}

impl Name {
    fn compare(&mut self, found: &str) {
        let is_known = |(_, near): &(usize, String)| near == found;
        // A record without a shard has an empty name.
        if found.is_empty()
            || found.len() > MAX_COMPARED_BYTES
            || self.nearest.as_ref().is_some_and(is_known)
        {
            return;
        }
        let far = distance(&self.name.to_lowercase(), &found.to_lowercase());
        if self.nearest.as_ref().is_none_or(|(least, _)| far < *least) {
            self.nearest = Some((far, found.to_owned()));
        }
    }

    /// Returns the nearest name if it is near: at most one letter in three differs.
    fn hint(&self) -> Option<&str> {
        let (far, near) = self.nearest.as_ref()?;
        let most = self.name.chars().count().div_ceil(3);
        (*far <= most).then_some(near)
    }
}

/// Returns how many letters must be changed, added or left out to turn one word into the other
/// (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut left = index.saturating_add(1);
        let mut next = vec![left];
        for (with, pair) in other.iter().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            let changed = diagonal.saturating_add(usize::from(letter != *with));
            left = changed.min(above.min(left).saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_the_least_number_of_changes() {
        for (one, other, far) in [
            ("", "", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("zürich", "zurich", 1),
        ] {
            assert_eq!((distance(one, other), distance(other, one)), (far, far));
        }
    }
}
