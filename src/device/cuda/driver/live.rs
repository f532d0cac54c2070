//! Handles with proof: their object is alive, and of the right kind.
//!
//! This module knows no call of the driver.

use std::marker::PhantomData;

use super::Handle;

/// The kinds of objects that handles name.
pub(in super::super) mod kind {
    pub(in super::super::super) enum Context {}
    pub(in super::super::super) enum Event {}
    pub(in super::super::super) enum Function {}
    pub(in super::super::super) enum Module {}
    pub(in super::super::super) enum Partition {}
    pub(in super::super::super) enum Stream {}
}

/// A handle of an object that is not destroyed during the borrow.
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
    /// The driver gave the handle for a `K`, or it is null and stands for the default `K`. Neither
    /// the object nor its context is destroyed during the lifetime.
    pub(in super::super) unsafe fn new(handle: Handle) -> Self {
        let of = PhantomData;
        Self { handle, of }
    }

    pub(super) fn handle(self) -> Handle {
        self.handle
    }
}

/// Physical memory in a GPU. Only the driver makes one, and it can be released once.
#[derive(Debug)]
pub(in super::super) struct Physical(u64);

impl Physical {
    /// Takes over memory that the driver has just made.
    pub(super) fn new(handle: u64) -> Self {
        Self(handle)
    }

    pub(super) fn handle(&self) -> u64 {
        self.0
    }

    /// Takes the handle out of the value.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.0)
    }
}
