//! The model file of the worker: validation, splitting, and a generated file if none is given.
//!
//! This module knows the frame of the safetensors format; it does not know shards.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Failure, at};

/// Returns the file's name, reduced to the characters that a model's name may have.
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.chars().take(200).map(|c| match c {
        c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
        _ => '_',
    });
    name.collect()
}

/// Splits `len` bytes into `shards` parts whose lengths differ by at most one byte.
pub fn split(len: u64, shards: u32) -> Result<Vec<Range<u64>>, Failure> {
    let shards = u64::from(shards);
    if len < shards {
        return Err(format!("{len} bytes do not fill {shards} shards").into());
    }
    let (size, longer) = (len / shards, len % shards);
    let start = |part: u64| part * size + part.min(longer);
    Ok((0..shards)
        .map(|part| start(part)..start(part + 1))
        .collect())
}

/// Returns the file's length, if the file exists, is not empty, and is complete where it is
/// safetensors.
pub fn check(path: &Path) -> Result<u64, Failure> {
    // Before opening: opening a pipe would wait for its writer.
    let data = fs::metadata(path).map_err(|error| at(path, &error))?;
    if !data.is_file() {
        return Err(format!("{}: not a regular file", path.display()).into());
    }
    let len = data.len();
    if len == 0 {
        return Err(format!("{}: the file is empty", path.display()).into());
    }
    let mut file = File::open(path).map_err(|error| at(path, &error))?;
    if path
        .extension()
        .is_some_and(|extension| extension == "safetensors")
    {
        let expected = safetensors_len(&mut file, len)
            .map_err(|error| format!("{}: not a safetensors file: {error}", path.display()))?;
        if expected != len {
            return Err(format!(
                "{}: its header says {expected} bytes, and it has {len}: it is {}",
                path.display(),
                if len < expected {
                    "truncated"
                } else {
                    "longer than its tensors"
                }
            )
            .into());
        }
    }
    Ok(len)
}

/// Returns the length that the header implies: 8 bytes of length, JSON, tensors.
fn safetensors_len(file: &mut File, len: u64) -> Result<u64, Failure> {
    let Some(rest) = len.checked_sub(8) else {
        return Err(format!("it ends after {len} bytes: it is truncated").into());
    };
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > 100 << 20 {
        return Err(format!("its header would have {header_len} bytes").into());
    }
    if header_len > rest {
        return Err("it ends within its header: it is truncated".into());
    }
    let header: serde_json::Value = serde_json::from_reader(file.take(header_len))?;
    let tensors = header.as_object().ok_or("its header is no JSON object")?;
    let end = tensors
        .values()
        .filter_map(|tensor| tensor["data_offsets"][1].as_u64())
        .max()
        .unwrap_or(0);
    8u64.checked_add(header_len)
        .and_then(|start| start.checked_add(end))
        .ok_or_else(|| "its offsets are absurd".into())
}

/// Creates a valid safetensors file of 64 MiB with one tensor of noise.
pub fn make(path: &Path) -> Result<PathBuf, Failure> {
    const LEN: u64 = 64 << 20;
    println!(
        "no MODEL given: making {} (64 MiB, one tensor of noise)",
        path.display()
    );
    let mut header = Vec::new();
    for _ in 0..2 {
        let data = LEN - 8 - header.len() as u64;
        header =
            format!(r#"{{"noise":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}"#)
                .into_bytes();
    }
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut left = LEN - 8 - header.len() as u64;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while left > 0 {
            // xorshift64: the same noise every time.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            let take = left.min(8) as usize;
            file.write_all(&bytes[..take])?;
            left -= take as u64;
        }
        file.into_inner()?.sync_all()
    };
    write().map_err(|error| at(path, &error))?;
    Ok(path.into())
}
