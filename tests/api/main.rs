//! The crate as its users meet it: what compiles and what does not, what types are and print, what the
//! documents name, the example, and programs that are packages of their own.

mod forked_child;
#[cfg(feature = "cuda")]
mod graph;
mod ledger;
mod package;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod surface;
mod ui;
mod worker;
