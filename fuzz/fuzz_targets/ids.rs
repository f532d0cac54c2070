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
    assert!(shard.is_ok() || worker.is_err());
    if let Ok(worker) = worker {
        assert_eq!((worker.as_str(), &*worker.to_string()), (text, text));
        assert!(text.len() <= 256 && text.bytes().all(is_plain));
    }
    if let Ok(shard) = shard {
        assert_eq!((shard.as_str(), &*shard.to_string()), (text, text));
        let is_plain = |byte| is_plain(byte) || byte == b'.';
        assert!(text.len() <= 256 && text.bytes().all(is_plain));
        assert!(text != "." && !text.contains(".."));
        let json = serde_json::to_string(&shard).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<ShardId>(&json).unwrap(), shard);
    }
    if let Ok(model) = ModelRef::new(text, index, total) {
        assert_eq!(
            (model.name(), model.index(), model.total()),
            (text, index, total)
        );
        assert!(!text.is_empty() && text.len() <= 512 && index < total);
        assert!(
            text.bytes()
                .all(|byte| is_plain(byte) || b"./:@".contains(&byte))
        );
        let json = serde_json::to_value(&model).unwrap();
        assert_eq!(json["model"], text);
    }
});

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
