//! The answers of `cuPointerGetAttribute` about an address.

use super::code::{self, Code};
use super::context;
use super::memory::{FIRST_ADDRESS, Origin};
use super::state::State;

/// The value of an attribute, with CUDA's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Word(u32),
    LongWord(u64),
}

pub const ACCESS_FLAGS: u32 = 16;

const HOST: u32 = 1;
const DEVICE: u32 = 2;

impl Value {
    /// Returns the number with the same width.
    fn replaced(self, number: u64) -> Self {
        match self {
            Self::Byte(_) => Self::Byte(number as u8),
            Self::Word(_) => Self::Word(number as u32),
            Self::LongWord(_) => Self::LongWord(number),
        }
    }
}

/// Returns the attribute with this number, or the answer that a test has ordered. `INVALID_VALUE`
/// means that CUDA does not know the address.
pub fn attribute(
    state: &State,
    attribute: u32,
    address: u64,
    device: usize,
) -> Result<Value, Code> {
    let truth = truth(state, attribute, address, device)?;
    let told = state.pointer_attributes.get(&attribute);
    Ok(told.map_or(truth, |number| truth.replaced(*number)))
}

fn truth(state: &State, attribute: u32, address: u64, device: usize) -> Result<Value, Code> {
    let found = state.memory.find(address);
    let Some((start, mapping)) = found else {
        // Reserved addresses are known even without a mapping.
        let reserved = state.memory.reservations.range(..=address).next_back();
        let reserved = reserved.filter(|(first, len)| address - **first < **len);
        return match (attribute, reserved) {
            (11, Some((first, _))) => Ok(Value::LongWord(*first)),
            (12, Some((_, len))) => Ok(Value::LongWord(*len)),
            (13, Some(_)) => Ok(Value::Byte(0)),
            _ => Err(code::INVALID_VALUE),
        };
    };
    let on_host = matches!(mapping.origin, Origin::Pinned | Origin::Registered);
    let managed = mapping.origin == Origin::Managed;
    Ok(match attribute {
        1 => match mapping.origin {
            Origin::Virtual(_) => Value::LongWord(0), // belongs to no context
            _ => Value::LongWord(context::handle(mapping.device)),
        },
        2 => Value::Word(if on_host { HOST } else { DEVICE }),
        3 => Value::LongWord(address),
        4 if on_host || managed => Value::LongWord(address),
        4 => return Err(code::INVALID_VALUE),
        6 => Value::Byte(0),
        7 => Value::LongWord(start ^ FIRST_ADDRESS),
        8 => Value::Byte(managed.into()),
        9 => Value::Word(mapping.device as u32),
        10 => Value::Byte((mapping.origin == Origin::Allocated).into()),
        11 => Value::LongWord(start),
        12 => Value::LongWord(mapping.len),
        13 => Value::Byte(1),
        14 => Value::LongWord(0),
        15 => Value::Byte(0),
        ACCESS_FLAGS => Value::Word(mapping.access.get(device).copied().unwrap_or(0)),
        17 => Value::LongWord(0),
        18 => Value::LongWord(mapping.len),
        19 => Value::LongWord(start),
        _ => return Err(code::INVALID_VALUE),
    })
}
