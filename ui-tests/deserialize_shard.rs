//! Making a verified shard by deserialisation must not compile: E0599.

use serde::Deserialize;
use vram_residency::shard::Verified;
use vram_residency::{Host, Shard};

fn forge(json: &mut serde_json::Deserializer<serde_json::de::StrRead<'_>>) {
    let _forged = Shard::<Verified, Host>::deserialize(json);
}

fn main() {}
