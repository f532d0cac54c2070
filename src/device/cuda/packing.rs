//! The packing of small allocations into slabs of physical memory.
//!
//! This module only computes places; it does not know the driver.

use super::ALIGNMENT;

/// The place of an allocation in a slab.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The number of the slab.
    pub(super) slab: usize,
    /// The offset in the slab, in bytes.
    pub(super) offset: u64,
    /// The size of the place in bytes. The last allocation of a slab also gets the rest of the
    /// slab.
    pub(super) slot: u64,
}

/// A slab that is being filled.
struct Slab {
    used: u64,
    /// The index of the last allocation in the slab.
    last: usize,
}

/// Places allocations of these lengths into slabs of `size` bytes, each into the first slab with
/// room.
///
/// An allocation larger than half a slab, or alone in its slab, gets `None`.
pub(super) fn places(lens: &[u64], size: u64) -> Vec<Option<Place>> {
    let mut places: Vec<Option<Place>> = vec![None; lens.len()];
    let mut slabs: Vec<Slab> = Vec::new();
    for ((index, len), place) in lens.iter().enumerate().zip(&mut places) {
        let Some(slot) = len.checked_next_multiple_of(ALIGNMENT as u64) else {
            continue;
        };
        if slot > size / 2 {
            continue;
        }
        let has_room = |slab: &Slab| slab.used.saturating_add(slot) <= size;
        let number = slabs.iter().position(has_room).unwrap_or(slabs.len());
        let offset = slabs.get(number).map_or(0, |slab| slab.used);
        let filled = Slab {
            used: offset.saturating_add(slot),
            last: index,
        };
        match slabs.get_mut(number) {
            Some(slab) => *slab = filled,
            None => slabs.push(filled),
        }
        *place = Some(Place {
            slab: number,
            offset,
            slot,
        });
    }
    for slab in slabs {
        if let Some(last) = places.get_mut(slab.last) {
            *last = last.filter(|place| place.offset > 0).map(|place| Place {
                slot: size.saturating_sub(place.offset),
                ..place
            });
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLAB: u64 = 2 << 20;

    #[test]
    fn small_ones_lie_together_wherever_they_are_among_large_ones() {
        let place = |slab, offset, slot| Some(Place { slab, offset, slot });
        let (half, rest) = (SLAB / 2, SLAB - 256 - 512);
        assert_eq!(
            places(&[1, SLAB, 257, half + 1, 4096], SLAB),
            [
                place(0, 0, 256),
                None,
                place(0, 256, 512),
                None,
                place(0, 768, rest)
            ]
        );
        assert_eq!(
            places(&[half, half, half], SLAB),
            [place(0, 0, half), place(0, half, half), None]
        );
        assert_eq!(
            places(&[half, half - 256, 512, 256], SLAB),
            [
                place(0, 0, half),
                place(0, half, half - 256),
                None,
                place(0, SLAB - 256, 256)
            ],
            "a gap is filled by what fits"
        );
        assert_eq!(places(&[10, SLAB], SLAB), [None, None]);
        assert_eq!(places(&[u64::MAX, 0], SLAB), [None, None]);
        assert_eq!(places(&[], SLAB), []);
    }

    proptest! {
        /// Compares with a map of every 256 bytes.
        #[test]
        fn each_slab_is_all_somebodys_and_no_byte_is_anybodys_twice(
            lens in proptest::collection::vec(1_u64..9000, 0..60),
        ) {
            const SMALL: u64 = 16 << 10;
            let places = places(&lens, SMALL);
            let slabs = places.iter().flatten().map(|place| place.slab + 1).max().unwrap_or(0);
            let mut owners = vec![0; slabs * (SMALL / 256) as usize];
            let mut members = vec![0; slabs];
            for (place, len) in places.iter().zip(&lens) {
                let Some(place) = place else { continue };
                prop_assert!(place.slot >= *len && place.offset % 256 == 0 && place.slot % 256 == 0);
                members[place.slab] += 1;
                let first = place.slab as u64 * (SMALL / 256) + place.offset / 256;
                for unit in first..first + place.slot / 256 {
                    owners[unit as usize] += 1;
                }
            }
            prop_assert!(owners.iter().all(|count| *count == 1));
            prop_assert!(members.iter().all(|count| *count >= 2), "{members:?}");
        }
    }
}
