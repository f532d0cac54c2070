//! The trail: what it records, where it begins, goes on and ends, and what it does when something under
//! it fails.

mod asked_again;
mod ending;
mod events;
mod faults;
mod flipped;
mod interference;
mod key_change;
mod life;
mod opening;
mod segments;
#[path = "../support/mod.rs"]
mod support;
mod voided;
