//! What the integration tests share: a trail in a temporary directory, and a reader of its lines
//! that knows JSON and nothing of the library.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vram_residency::audit::{self, AuditTrailBuilder, Checkpoint, Report, VerifierKey};
use vram_residency::{AuditTrail, TrailKey};

/// A directory for one trail and its key; gone when dropped.
pub struct Place {
    pub temp: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            temp: TempDir::new().unwrap(),
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("trail")
    }

    pub fn key(&self) -> TrailKey {
        TrailKey::open_or_create(self.temp.path().join("key.pem")).unwrap()
    }

    pub fn builder(&self) -> AuditTrailBuilder {
        AuditTrail::builder("worker-1".parse().unwrap(), self.dir(), self.key())
            .durable_within(Duration::from_millis(100))
    }

    pub fn open(&self) -> AuditTrail {
        self.builder().open().unwrap()
    }

    pub fn records(&self) -> Vec<Value> {
        records(&self.dir())
    }

    pub fn verify(&self, key: &VerifierKey, anchors: &[Checkpoint]) -> Report {
        audit::verify(&self.dir(), std::slice::from_ref(key), anchors)
    }
}

/// The segments of a trail, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    paths.sort();
    paths
}

/// Every record in every segment, void ones too.
pub fn records(dir: &Path) -> Vec<Value> {
    segments(dir)
        .iter()
        .flat_map(|path| records_in(path))
        .collect()
}

pub fn records_in(path: &Path) -> Vec<Value> {
    String::from_utf8_lossy(&std::fs::read(path).unwrap())
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|value| value.get("seq").is_some())
        .collect()
}

/// The records of one event.
pub fn of_event(records: &[Value], event: &str) -> Vec<Value> {
    records
        .iter()
        .filter(|record| record["event"] == event)
        .cloned()
        .collect()
}

/// Says loudly that a test was skipped; fails if tools are required.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("VRAM_REQUIRE_TOOLS").is_none_or(|value| value != "1"),
        "VRAM_REQUIRE_TOOLS=1, and {why}"
    );
    eprintln!("SKIPPED: {why}");
}
