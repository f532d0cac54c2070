//! Operations on single words that Rust has no operator for. This module does not know lanes.

/// Returns the lower word of `high:low`, shifted right by at most 32 bits.
#[inline]
pub(super) fn funnel(low: u32, high: u32, bits: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> bits) as u32
}

/// `prmt`: each result byte is one of the eight bytes of `b:a`, or its sign.
pub(super) fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |result, index| {
        let chosen = selector >> (4 * index) & 0xf;
        let byte = (bytes >> (8 * (chosen & 7))) as u8;
        let byte = if chosen & 8 == 0 {
            byte
        } else {
            ((byte as i8) >> 7) as u8
        };
        result | u32::from(byte) << (8 * index)
    })
}

/// `lop3`: bit `4 a + 2 b + c` of the table, for each bit of the sources.
#[inline]
pub(super) fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8)
        .filter(|row| table >> row & 1 == 1)
        .fold(0, |result, row| {
            let pick = |word: u32, bit: u32| if row >> bit & 1 == 1 { word } else { !word };
            result | pick(a, 2) & pick(b, 1) & pick(c, 0)
        })
}

/// `bfe.u32`: `len` bits from a position on, with zeros beyond the word.
pub(super) fn extract(word: u32, position: u32, len: u32) -> u32 {
    let (position, len) = (position & 0xff, len & 0xff);
    let shifted = word.checked_shr(position).unwrap_or(0);
    if len >= 32 {
        shifted
    } else {
        shifted & ((1 << len) - 1)
    }
}

/// `bfe.s32`: the same, with the field's highest bit as sign.
pub(super) fn extract_signed(word: u32, position: u32, len: u32) -> u32 {
    let (position, len) = (position & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (position + len - 1).min(31);
    let sign = if word >> top & 1 == 1 { u32::MAX } else { 0 };
    let kept = if position > 31 {
        0
    } else {
        (top + 1).saturating_sub(position)
    };
    let field = extract(word, position, kept);
    if kept >= 32 {
        field
    } else {
        field | sign << kept
    }
}
