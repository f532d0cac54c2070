//! Handles that prove something: that what they name lives, and that it is of the kind that is asked for.
//!
//! This module knows no call of the driver's.

use std::marker::PhantomData;

use super::Handle;

/// What handles name.
pub(in super::super) mod kind {
    pub(in super::super::super) enum Context {}
    pub(in super::super::super) enum Event {}
    pub(in super::super::super) enum Function {}
    pub(in super::super::super) enum Module {}
    pub(in super::super::super) enum Partition {}
    pub(in super::super::super) enum Stream {}
}

/// A handle of something that is not destroyed while the borrow lasts.
pub(in super::super) struct Live<'a, K> {
    handle: Handle,
    of: PhantomData<(&'a (), K)>,
}

impl<K> Clone for Live<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Live<'_, K> {}

impl<K> Live<'_, K> {
    /// # Safety
    /// The driver gave the handle for a `K`, or it is null and stands for the default `K`; nobody destroys
    /// it, or its context, as long as the lifetime says.
    pub(in super::super) unsafe fn new(handle: Handle) -> Self {
        let of = PhantomData;
        Self { handle, of }
    }

    pub(super) fn handle(self) -> Handle {
        self.handle
    }
}

/// Physical memory in a GPU. Only the driver makes one, and it is good for one release.
#[derive(Debug)]
pub(in super::super) struct Physical(u64);

impl Physical {
    /// Takes over what the driver has just made.
    pub(super) fn new(handle: u64) -> Self {
        Self(handle)
    }

    pub(super) fn handle(&self) -> u64 {
        self.0
    }

    /// The handle, which the value has no more.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.0)
    }
}
