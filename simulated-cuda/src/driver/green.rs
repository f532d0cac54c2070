//! Green contexts: partitions of a device's multiprocessors, to which streams are restricted.

use super::code::{self, Code};
use super::state::State;

/// The flag for a split that ignores clusters, whose blocks need neighbours.
const IGNORE_COSCHEDULING: u32 = 1;

/// The flag that a green context must be made with.
const DEFAULT_STREAM: u32 = 1;

/// A green context.
#[derive(Clone, Copy, Debug)]
pub struct Green {
    pub device: usize,
    pub multiprocessors: u32,
}

/// Returns the size of the smallest part, and the step between sizes.
fn steps(major: u32, flags: u32) -> (u32, u32) {
    match major {
        9.. if flags & IGNORE_COSCHEDULING == 0 => (8, 8),
        8 if flags & IGNORE_COSCHEDULING == 0 => (4, 2),
        _ => (2, 2),
    }
}

impl State {
    /// Returns the sizes of at most `parts` parts with at least the requested multiprocessors each,
    /// and the rest.
    pub fn split(
        &self,
        all: u32,
        parts: u32,
        least: u32,
        flags: u32,
    ) -> Result<(Vec<u32>, u32), Code> {
        // A resource does not name its architecture, so all devices are treated as the oldest.
        let major = self.devices.iter().map(|device| device.major).min();
        let (smallest, step) = steps(major.unwrap_or(9), flags);
        let size = least
            .max(smallest)
            .checked_next_multiple_of(step)
            .filter(|size| flags <= 3 && *size <= all)
            .ok_or(code::INVALID_RESOURCE_CONFIGURATION)?;
        let parts = parts.min(all / size);
        Ok((vec![size; parts as usize], all - parts * size))
    }

    /// Creates a green context, which retains the primary one.
    pub fn create_green(
        &mut self,
        device: usize,
        description: u64,
        flags: u32,
    ) -> Result<u64, Code> {
        if flags != DEFAULT_STREAM {
            return Err(code::INVALID_VALUE);
        }
        let multiprocessors = *self
            .descriptions
            .get(&description)
            .ok_or(code::INVALID_VALUE)?;
        self.retain(device)?;
        let handle = self.handle();
        let green = Green {
            device,
            multiprocessors,
        };
        self.greens.insert(handle, green);
        Ok(handle)
    }

    /// Destroys a green context. Refused while it has streams, because CUDA does not document that
    /// case.
    pub fn destroy_green(&mut self, handle: u64) -> Result<(), Code> {
        let is_used = |held_to| held_to == Some(handle);
        if self
            .streams
            .values()
            .any(|stream| stream.is_users() && is_used(stream.held_to))
        {
            return Err(code::INVALID_VALUE);
        }
        let green = self.greens.remove(&handle).ok_or(code::INVALID_CONTEXT)?;
        self.release(green.device)
    }

    /// Creates a stream as `create_stream` does, restricted to a green context.
    pub fn create_green_stream(
        &mut self,
        green: u64,
        flags: u32,
        priority: i32,
    ) -> Result<u64, Code> {
        const NON_BLOCKING: u32 = 1;
        let device = self.greens.get(&green).ok_or(code::INVALID_CONTEXT)?.device;
        self.check(device)?;
        if flags != NON_BLOCKING {
            return Err(code::INVALID_VALUE);
        }
        let handle = self.create_stream(device, flags, priority)?;
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.held_to = Some(green);
        }
        Ok(handle)
    }

    /// Returns the number of multiprocessors that a stream's launches are restricted to, if they
    /// are.
    pub fn held_to(&self, stream: u64) -> Option<u32> {
        let green = self.streams.get(&stream)?.held_to?;
        self.greens.get(&green).map(|green| green.multiprocessors)
    }
}
