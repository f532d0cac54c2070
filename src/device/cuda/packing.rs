//! Which small shards of a batch lie together in one piece of physical memory, and where in it.

use super::ALIGNMENT;

/// Where a shard lies in a piece that it shares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The number of the piece.
    pub(super) piece: usize,
    /// Where it begins there, in bytes.
    pub(super) offset: u64,
    /// How many bytes are its own: with what is left of the piece, if it is the last one there.
    pub(super) slot: u64,
}

/// The places of shards with these lengths, in order, in pieces of so many bytes. None for a shard that has a
/// piece of its own: no other fits beside it, or there is none.
pub(super) fn places(lens: &[u64], piece_len: u64) -> Vec<Option<Place>> {
    let mut places: Vec<Option<Place>> = vec![None; lens.len()];
    let (mut piece, mut used, mut last) = (0_usize, 0_u64, None);
    let small = places.iter_mut().zip(lens).filter_map(|(place, len)| {
        let slot = len.checked_next_multiple_of(ALIGNMENT as u64)?;
        (slot <= piece_len / 2).then_some((place, slot))
    });
    for (place, slot) in small {
        if used.saturating_add(slot) > piece_len {
            give_the_rest(&mut last, piece_len);
            (piece, used) = (piece.saturating_add(1), 0);
        }
        *place = Some(Place {
            piece,
            offset: used,
            slot,
        });
        used = used.saturating_add(slot);
        last = Some(place);
    }
    give_the_rest(&mut last, piece_len);
    places
}

/// The last one in a piece has what is left of it. If it is the only one, the piece is its own.
fn give_the_rest(last: &mut Option<&mut Option<Place>>, piece_len: u64) {
    let Some(last) = last.take() else {
        return;
    };
    match last {
        Some(alone) if alone.offset == 0 => *last = None,
        Some(place) => place.slot = piece_len.saturating_sub(place.offset),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 2 << 20;

    #[test]
    fn small_ones_lie_together_wherever_they_are_among_large_ones() {
        let place = |piece, offset, slot| {
            Some(Place {
                piece,
                offset,
                slot,
            })
        };
        let (half, rest) = (PIECE / 2, PIECE - 256 - 512);
        assert_eq!(
            places(&[1, PIECE, 257, half + 1, 4096], PIECE),
            [
                place(0, 0, 256),
                None,
                place(0, 256, 512),
                None,
                place(0, 768, rest)
            ]
        );
        assert_eq!(
            places(&[half, half, half], PIECE),
            [place(0, 0, half), place(0, half, half), None]
        );
        assert_eq!(places(&[10, PIECE], PIECE), [None, None]);
        assert_eq!(places(&[u64::MAX, 0], PIECE), [None, None]);
        assert_eq!(places(&[], PIECE), []);
    }

    proptest! {
        /// Compared with a map of every 256 bytes.
        #[test]
        fn each_piece_is_all_somebodys_and_no_byte_is_anybodys_twice(
            lens in proptest::collection::vec(1_u64..9000, 0..60),
        ) {
            const SMALL: u64 = 16 << 10;
            let places = places(&lens, SMALL);
            let pieces = places.iter().flatten().map(|place| place.piece + 1).max().unwrap_or(0);
            let mut owners = vec![0; pieces * (SMALL / 256) as usize];
            let mut members = vec![0; pieces];
            for (place, len) in places.iter().zip(&lens) {
                let Some(place) = place else { continue };
                prop_assert!(place.slot >= *len && place.offset % 256 == 0 && place.slot % 256 == 0);
                members[place.piece] += 1;
                let first = place.piece as u64 * (SMALL / 256) + place.offset / 256;
                for unit in first..first + place.slot / 256 {
                    owners[unit as usize] += 1;
                }
            }
            prop_assert!(owners.iter().all(|count| *count == 1));
            // The last may be of one that then has a piece of its own: its number is not given.
            prop_assert!(members.iter().all(|count| *count >= 2), "{members:?}");
        }
    }
}
