//! Making a receipt by deserialisation must not compile: E0599.

use serde::Deserialize;
use vram_residency::audit::Receipt;

fn forge(json: &mut serde_json::Deserializer<serde_json::de::StrRead<'_>>) {
    let _forged = Receipt::deserialize(json);
}

fn main() {}
