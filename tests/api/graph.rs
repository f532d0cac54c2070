//! One cudarc, and one way to find the driver, in a program with shards in a GPU, candle and cubecl.
//!
//! The package in `tests/graph` is such a program, compiled by `cargo check`: that a view goes into candle's
//! storage shows that the types are the same. It needs cargo and the registry, no CUDA: the crate of candle's
//! kernels, which wants `nvcc`, is stood in for. Not covered, therefore: linking, running, and those kernels.
//! Of cubecl, 0.10 is compiled; the build of 0.11 downloads LLVM from outside the registry, so there it is only
//! looked at what cargo makes of its features. (It names `is_culib_present`, which cudarc lacks when it is
//! linked: beside candle it cannot compile, with this crate or without.)

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support;

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/graph/Cargo.toml");

#[test]
fn candle_and_cubecl_take_the_same_cudarc_and_ours_yields_to_linking() {
    if !is_downloaded() {
        return;
    }
    let alone = cudarc(&[]);
    assert!(alone.contains("fallback-dynamic-loading"), "{alone:?}");
    for absent in ["dynamic-linking", "dynamic-loading", "static-linking"] {
        assert!(!alone.contains(absent), "{alone:?}");
    }
    for program in ["cubecl", "cubecl-next"] {
        let found = cudarc(&["--features", program]);
        assert!(found.contains("fallback-dynamic-loading"), "{found:?}");
        assert!(!found.contains("dynamic-linking"), "{program}: {found:?}");
    }
    for programs in ["candle", "candle,cubecl,cubecl-next"] {
        let found = cudarc(&["--features", programs]);
        assert!(found.contains("fallback-dynamic-loading"), "{found:?}");
        assert!(found.contains("dynamic-linking"), "{programs}: {found:?}");
        // Either would not compile beside it.
        for absent in ["dynamic-loading", "static-linking"] {
            assert!(!found.contains(absent), "{programs}: {found:?}");
        }
        // Two of them would not compile, either.
        let pinned = found.iter().find(|name| name.starts_with("cuda-1"));
        assert_eq!(pinned, None, "{programs}");
    }
}

#[test]
fn a_program_with_shards_candle_and_cubecl_compiles() {
    if !is_downloaded() {
        return;
    }
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target/graph");
    let arguments = ["check", "--quiet", "--features", "candle,cubecl"];
    let output = cargo(&[&arguments[..], &["--offline", "--target-dir", target]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The features of cudarc, of which there is one.
fn cudarc(features: &[&str]) -> BTreeSet<String> {
    let arguments = ["metadata", "--format-version=1", "--offline"];
    let output = cargo(&[&arguments[..], features].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_cudarc = |id: &Value| {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["id"] == *id);
        package.unwrap()["name"] == "cudarc"
    };
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let found: Vec<_> = nodes.iter().filter(|node| is_cudarc(&node["id"])).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    let features = found[0]["features"].as_array().unwrap().iter();
    features
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// Whether everything that the lock file names is here, or could be downloaded.
fn is_downloaded() -> bool {
    let output = cargo(&["fetch"]);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // A lock file that no longer fits is no matter of the registry.
        assert!(!said.contains("--locked"), "{said}");
        support::skip(&format!("candle and cubecl cannot be downloaded: {said}"));
    }
    output.status.success()
}

fn cargo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    // Whoever tests this crate may have told cargo how to compile it.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    command.args(["--locked", "--manifest-path", PACKAGE]);
    command.output().unwrap()
}
