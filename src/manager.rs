//! stub
#[derive(Clone, Copy, Debug)]
pub(crate) enum Assurance { Queued, Durable }
