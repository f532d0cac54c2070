//! Loads and stores of a group of threads. Each lane's address is looked up in the window of the
//! last access, and in the memory if it is not there.

use super::super::instruction::Inst;
use super::lanes::{Group, LANES};
use super::{Access, Stop, Window};

impl Group<'_> {
    /// Returns the host address of `bytes` bytes at a device address.
    #[inline]
    fn locate(
        &mut self,
        address: u64,
        bytes: u64,
        access: Access,
        line: u32,
    ) -> Result<*mut u8, Stop> {
        if !address.is_multiple_of(bytes) {
            return Err(Stop::Misaligned { address, line });
        }
        let window = if access == Access::Read {
            self.read
        } else {
            self.write
        };
        let window = if holds(&window, address, bytes) {
            window
        } else {
            let window = self.memory.window(address, access);
            let window = window.filter(|window| holds(window, address, bytes));
            let window = window.ok_or(Stop::Illegal {
                address,
                access,
                line,
            })?;
            match access {
                Access::Read => self.read = window,
                Access::Write => self.write = window,
            }
            window
        };
        // SAFETY: the offset is less than the window's length (`holds`), and a window's bytes are
        // one allocation of that length (`Memory`).
        Ok(unsafe { window.bytes.add((address - window.start) as usize) })
    }

    /// Loads an element into each active lane.
    #[inline]
    pub(super) fn load<const BYTES: usize>(&mut self, inst: &Inst) -> Result<[u64; LANES], Stop> {
        let addresses = self.long_words[inst.a as usize].0;
        let mut values = [0; LANES];
        for lane in 0..LANES {
            if self.active >> lane & 1 == 0 {
                continue;
            }
            let address = addresses[lane].wrapping_add(inst.imm);
            let from = self.locate(address, BYTES as u64, Access::Read, inst.line)?;
            let mut value = [0_u8; 8];
            // SAFETY: `locate` checked that `BYTES` bytes can be read there; `value` is this
            // function's own and has 8.
            unsafe { std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), BYTES) };
            values[lane] = u64::from_le_bytes(value);
        }
        Ok(values)
    }

    /// Stores an element from each active lane.
    pub(super) fn store<const BYTES: usize>(
        &mut self,
        inst: &Inst,
        values: [u64; LANES],
    ) -> Result<(), Stop> {
        let addresses = self.long_words[inst.a as usize].0;
        for lane in 0..LANES {
            if self.active >> lane & 1 == 0 {
                continue;
            }
            let address = addresses[lane].wrapping_add(inst.imm);
            let to = self.locate(address, BYTES as u64, Access::Write, inst.line)?;
            let value = self
                .corrupted(lane, values[lane], BYTES as u32)
                .to_le_bytes();
            // SAFETY: `locate` checked that `BYTES` bytes can be written there; `value` is this
            // function's own and has 8.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, BYTES) };
        }
        Ok(())
    }

    fn corrupted(&mut self, lane: usize, value: u64, bytes: u32) -> u64 {
        let Some(corruption) = self.launch.corruption else {
            return value;
        };
        let store = self.stores[lane];
        self.stores[lane] += 1;
        let thread = self.first_thread + lane as u64;
        if (corruption.thread == thread || corruption.thread == u64::MAX)
            && corruption.store == store
        {
            value ^ 1 << (corruption.bit % (8 * bytes))
        } else {
            value
        }
    }

    pub(super) fn check_alignment(&self, inst: &Inst) -> Result<(), Stop> {
        let addresses = &self.long_words[inst.a as usize].0;
        for (lane, base) in addresses.iter().enumerate() {
            let address = base.wrapping_add(inst.imm);
            if self.active >> lane & 1 == 1 && !address.is_multiple_of(u64::from(inst.b)) {
                return Err(Stop::Misaligned {
                    address,
                    line: inst.line,
                });
            }
        }
        Ok(())
    }
}

/// Returns whether `bytes` bytes at the address lie inside the window.
#[inline]
fn holds(window: &Window, address: u64, bytes: u64) -> bool {
    let at = address.wrapping_sub(window.start);
    at < window.len && window.len - at >= bytes
}
