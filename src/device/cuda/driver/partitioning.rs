//! The optional calls that restrict streams to a part of the multiprocessors.

use std::ffi::{c_int, c_uint};
use std::ptr;

use super::functions::{Partitioning, partitioning_symbol as symbol};
use super::{Called, Driver, Failed, Handle, Live, Resource, kind};
use crate::device::cuda::code::NOT_SUPPORTED;

impl Driver {
    /// Returns all multiprocessors of a device, for splitting, or `None` if the driver cannot split
    /// them.
    pub(in super::super) fn multiprocessors(&self, device: c_int) -> Called<Option<Resource>> {
        let Some(table) = &self.partitioning else {
            return Ok(None);
        };
        let (mut all, kind) = (Resource::NONE, Resource::MULTIPROCESSORS);
        call!(symbol, table, device_resource(device, &raw mut all, kind))?;
        Ok(Some(all))
    }

    /// Returns a part with at least `least` multiprocessors, which need not be neighbours.
    pub(in super::super) fn split(&self, all: &Resource, least: u32) -> Called<Resource> {
        const NO_NEIGHBOURS: c_uint = 1;
        let (mut part, mut rest, mut parts) = (Resource::NONE, Resource::NONE, 1);
        call!(
            symbol,
            self.table()?,
            split(
                &raw mut part,
                &raw mut parts,
                all,
                &raw mut rest,
                NO_NEIGHBOURS,
                least
            )
        )?;
        Ok(part)
    }

    /// Creates a partition of the multiprocessors: a "green context" of the primary context.
    pub(in super::super) fn create_partition(
        &self,
        device: c_int,
        part: Resource,
    ) -> Called<Handle> {
        const WITH_DEFAULT_STREAM: c_uint = 1;
        let table = self.table()?;
        let (mut part, mut description) = (part, ptr::null_mut());
        call!(
            symbol,
            table,
            describe(&raw mut description, &raw mut part, 1)
        )?;
        let mut partition = ptr::null_mut();
        call!(
            symbol,
            table,
            create(&raw mut partition, description, device, WITH_DEFAULT_STREAM)
        )?;
        Ok(partition)
    }

    /// # Safety
    /// The handle came from [`create_partition`](Self::create_partition), and neither it nor a
    /// stream in it is used any more.
    pub(in super::super) unsafe fn destroy_partition(&self, partition: Handle) -> Called<()> {
        call!(symbol, self.table()?, destroy(partition))
    }

    /// Creates a stream as [`create_stream`](Self::create_stream) does, restricted to the
    /// partition.
    pub(in super::super) fn create_stream_in(
        &self,
        partition: Live<'_, kind::Partition>,
        priority: c_int,
    ) -> Called<Handle> {
        const NON_BLOCKING: c_uint = 1;
        let mut stream = ptr::null_mut();
        call!(
            symbol,
            self.table()?,
            create_stream(&raw mut stream, partition.handle(), NON_BLOCKING, priority)
        )?;
        Ok(stream)
    }

    fn table(&self) -> Called<&Partitioning> {
        self.partitioning.as_ref().ok_or(Failed {
            call: symbol::create,
            code: NOT_SUPPORTED,
        })
    }
}
