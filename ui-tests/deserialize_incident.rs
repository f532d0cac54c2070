//! Making an incident by deserialisation must not compile: E0599.

use serde::Deserialize;
use vram_residency::audit::Incident;

fn forge(json: &mut serde_json::Deserializer<serde_json::de::StrRead<'_>>) {
    let _forged = Incident::deserialize(json);
}

fn main() {}
