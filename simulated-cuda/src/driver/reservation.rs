//! The virtual-memory API over [`Memory`]: reservations, physical allocations, mappings and access.

use super::code::{self, Code};
use super::memory::{
    GRANULARITY, Mapping, Memory, NO_ACCESS, Origin, Physical, READ_ONLY, READ_WRITE,
};

impl Memory {
    /// Reserves addresses. The most recently freed ones are reused first, to catch code that relies
    /// on unique addresses.
    pub fn reserve(&mut self, len: u64, align: u64) -> Result<u64, Code> {
        if len == 0 || !len.is_multiple_of(GRANULARITY) || !(align == 0 || align.is_power_of_two())
        {
            return Err(code::INVALID_VALUE);
        }
        let align = align.max(GRANULARITY);
        let fits = |(start, freed): &(u64, u64)| *freed >= len && start.is_multiple_of(align);
        let start = match self.freed_reservations.iter().rposition(fits) {
            Some(index) => {
                let (start, freed) = self.freed_reservations.remove(index);
                if freed > len {
                    self.freed_reservations.push((start + len, freed - len));
                }
                start
            }
            None => self.fresh_addresses(len, align)?,
        };
        self.reservations.insert(start, len);
        Ok(start)
    }

    /// Frees a reservation: exactly one that was made, without mappings.
    pub fn unreserve(&mut self, start: u64, len: u64) -> Result<(), Code> {
        let exact = self.reservations.get(&start) == Some(&len);
        if !exact || self.mappings_in(start, len).next().is_some() {
            return Err(code::INVALID_VALUE);
        }
        self.reservations.remove(&start);
        self.freed_reservations.push((start, len));
        Ok(())
    }

    fn mappings_in(&self, start: u64, len: u64) -> impl Iterator<Item = u64> + '_ {
        self.maps
            .range(start..start.saturating_add(len))
            .map(|(start, _)| *start)
    }

    /// Creates a physical allocation with this handle.
    pub fn create(&mut self, handle: u64, device: usize, len: u64) -> Result<(), Code> {
        if len == 0 || !len.is_multiple_of(GRANULARITY) {
            return Err(code::INVALID_VALUE);
        }
        let block = self.take(device, len)?;
        self.physical.insert(
            handle,
            Physical {
                device,
                block,
                references: 1,
                mappings: 0,
            },
        );
        Ok(())
    }

    /// Releases one reference to a handle. The memory stays as long as it is mapped.
    pub fn release(&mut self, handle: u64) -> Result<(), Code> {
        let physical = self
            .physical
            .get_mut(&handle)
            .filter(|physical| physical.references > 0);
        physical.ok_or(code::INVALID_VALUE)?.references -= 1;
        self.collect(handle);
        Ok(())
    }

    /// Retains the handle behind a mapped address once more.
    pub fn retain(&mut self, address: u64) -> Result<u64, Code> {
        let Some((
            _,
            Mapping {
                origin: Origin::Virtual(handle),
                ..
            },
        )) = self.find(address)
        else {
            return Err(code::INVALID_VALUE);
        };
        let handle = *handle;
        let physical = self.physical.get_mut(&handle).ok_or(code::INVALID_VALUE)?;
        physical.references += 1;
        Ok(handle)
    }

    /// Frees physical memory without references and mappings.
    fn collect(&mut self, handle: u64) {
        let Some(physical) = self.physical.get(&handle) else {
            return;
        };
        if physical.references == 0
            && physical.mappings == 0
            && let Some(physical) = self.physical.remove(&handle)
        {
            self.give(physical.device, physical.block);
        }
    }

    /// Maps physical memory, from its beginning, into a reservation. No device has access yet.
    pub fn map(&mut self, start: u64, len: u64, offset: u64, handle: u64) -> Result<(), Code> {
        let reserved = self.reservations.range(..=start).next_back();
        let reserved = reserved.is_some_and(|(first, size)| {
            start
                .checked_add(len)
                .is_some_and(|end| end <= first + size)
        });
        let whole = len > 0 && len.is_multiple_of(GRANULARITY) && start.is_multiple_of(GRANULARITY);
        if !reserved || !whole || offset != 0 || self.mappings_in(start, len).next().is_some() {
            return Err(code::INVALID_VALUE);
        }
        if self.find(start).is_some() {
            return Err(code::INVALID_VALUE);
        }
        let devices = self.pools.len();
        let physical = self
            .physical
            .get_mut(&handle)
            .filter(|physical| physical.references > 0);
        let physical = physical.ok_or(code::INVALID_VALUE)?;
        if len > physical.block.len() as u64 {
            return Err(code::INVALID_VALUE);
        }
        physical.mappings += 1;
        let mapping = Mapping {
            len,
            origin: Origin::Virtual(handle),
            device: physical.device,
            access: vec![NO_ACCESS; devices],
            bytes: physical.block.start(),
            block: Some(physical.block.clone()),
        };
        self.maps.insert(start, mapping);
        Ok(())
    }

    /// Returns the first addresses of the mappings of a range, which must be whole and without
    /// gaps.
    fn whole_mappings(&self, start: u64, len: u64) -> Result<Vec<u64>, Code> {
        let mut starts = Vec::new();
        let (mut at, end) = (start, start.checked_add(len).ok_or(code::INVALID_VALUE)?);
        while at < end {
            let mapping = self.maps.get(&at).ok_or(code::INVALID_VALUE)?;
            if !mapping.is_virtual() || mapping.len > end - at {
                return Err(code::INVALID_VALUE);
            }
            starts.push(at);
            at += mapping.len;
        }
        if starts.is_empty() {
            Err(code::INVALID_VALUE)
        } else {
            Ok(starts)
        }
    }

    /// Removes all mappings of a range.
    pub fn unmap(&mut self, start: u64, len: u64) -> Result<(), Code> {
        for start in self.whole_mappings(start, len)? {
            let Some(Mapping {
                origin: Origin::Virtual(handle),
                ..
            }) = self.maps.remove(&start)
            else {
                continue;
            };
            if let Some(physical) = self.physical.get_mut(&handle) {
                physical.mappings -= 1;
            }
            self.collect(handle);
        }
        Ok(())
    }

    /// Sets a device's access to all mappings of a range.
    pub fn set_access(
        &mut self,
        start: u64,
        len: u64,
        device: usize,
        access: u32,
    ) -> Result<(), Code> {
        if !matches!(access, NO_ACCESS | READ_ONLY | READ_WRITE) || device >= self.pools.len() {
            return Err(code::INVALID_VALUE);
        }
        for start in self.whole_mappings(start, len)? {
            if let Some(mapping) = self.maps.get_mut(&start) {
                mapping.access[device] = access;
            }
        }
        Ok(())
    }
}
