//! The numbers of records, and the bounds below which they are given.
//!
//! A number that a caller knows is never used again, not even by the run after a kill. That run
//! knows only what is on disk, so the disk states a bound first: `numbers_below` in each header,
//! raised by `NumbersReserved`. The run after a kill begins at the bound. This module knows no
//! lock, no room and no file.

use super::Seq;
use crate::segment::MAX_SEQ;

/// Numbers below each bound that only the trail's own records get. The first of them raises the
/// bound.
const OWN: u64 = 8;

#[derive(Debug)]
pub(super) struct Numbers {
    next: u64,
    /// The largest bound that a header or a `NumbersReserved` states, written or not.
    stated: u64,
    /// The largest durable bound. Callers only get numbers below it.
    durable: u64,
}

impl Numbers {
    /// Begins with a number that no caller knows. Callers get none before a bound is durable.
    pub(super) fn new(next: u64) -> Self {
        Self {
            next,
            stated: next,
            durable: next,
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a number for a record of the trail itself, which no caller sees before it is durable.
    pub(super) fn take(&mut self) -> Seq {
        let seq = Seq(self.next);
        self.next = self.next.saturating_add(1);
        seq
    }

    /// Takes a number that the caller will see, unless no more than `spare` are left below the
    /// durable bound.
    pub(super) fn take_told(&mut self, spare: usize) -> Option<Seq> {
        let spare = OWN.saturating_add(spare as u64);
        (self.next.saturating_add(spare) < self.durable).then(|| self.take())
    }

    /// Returns whether fewer than `count` numbers are left below the stated bound.
    pub(super) fn has_fewer_than(&self, count: usize) -> bool {
        self.stated.saturating_sub(self.next) < count as u64
    }

    /// States a bound with `count` numbers below it, and returns it. The caller records it.
    pub(super) fn state(&mut self, count: usize) -> u64 {
        let bound = self.next.saturating_add(count as u64).min(MAX_SEQ);
        self.stated = self.stated.max(bound);
        self.stated
    }

    /// Notes that a record with this bound is durable.
    pub(super) fn settle(&mut self, bound: u64) {
        self.durable = self.durable.max(bound);
    }
}
