//! Text that claims to be the name of a shard, a worker or a model.
//!
//! A name that is taken is kept as it is, is short, and needs no escape wherever it ends up: in JSON,
//! in a log's line, beside a path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vram_residency::{ModelRef, ShardId, WorkerId};

fuzz_target!(|input: (&str, u32, u32)| {
    let (text, index, total) = input;
    let shard = text.parse::<ShardId>();
    let worker = text.parse::<WorkerId>();
    assert_eq!(shard.is_ok(), worker.is_ok());
    if let (Ok(shard), Ok(worker)) = (shard, worker) {
        assert_eq!((shard.as_str(), worker.as_str()), (text, text));
        assert_eq!(
            (shard.to_string(), worker.to_string()),
            (text.into(), text.into())
        );
        assert!(text.len() <= 256 && text.bytes().all(is_plain));
        assert_eq!(
            serde_json::to_string(&shard).unwrap(),
            format!("\"{text}\"")
        );
    }
    if let Ok(model) = ModelRef::new(text, index, total) {
        assert_eq!(
            (model.name(), model.index(), model.total()),
            (text, index, total)
        );
        assert!(!text.is_empty() && text.len() <= 512 && index < total);
        assert!(
            text.bytes()
                .all(|byte| is_plain(byte) || b"./:".contains(&byte))
        );
        let json = serde_json::to_value(&model).unwrap();
        assert_eq!(json["model"], text);
    }
});

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
