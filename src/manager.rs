//! stub
/// How sure an operation has to be of its record before it succeeds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Assurance {
    /// queued
    #[default]
    Queued,
    /// durable
    Durable,
}
