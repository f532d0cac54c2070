//! stub
#![allow(missing_docs, dead_code)]
use serde::{Serialize, Serializer};
use std::fmt;
pub(crate) type Node = [u8; 32];
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Digest(pub(crate) [u8; 32]);
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamDigest(pub(crate) [u8; 32]);
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Display for StreamDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl Serialize for StreamDigest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
