//! The driver's second name.
//!
//! A loaded library is found again by a single name, its SONAME, which is `libcuda.so`. A request
//! for `libcuda.so.1` must not get a real driver. So an empty second library with that name is
//! loaded, which needs the first: symbols are looked up in both.
//!
//! It has a few hundred bytes. It is written here rather than linked, so that no linker's options
//! matter.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

const STRINGS: &[u8] = b"\0libcuda.so\0libcuda.so.1\0";
const NEEDED: u64 = 1;
const NAME: u64 = 12;

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PROGRAM_HEADERS: u64 = 3;
const DYNAMIC: u64 = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
const DYNAMIC_ENTRIES: u64 = 8;
const SYMBOLS: u64 = DYNAMIC + DYNAMIC_ENTRIES * 16;
const SYMBOL: u64 = 24;
const HASH: u64 = SYMBOLS + SYMBOL;
const HASH_BYTES: u64 = 16;
const TEXT: u64 = HASH + HASH_BYTES;
const END: u64 = TEXT + STRINGS.len() as u64;

/// Loads the library for the rest of the process.
pub fn load() {
    let path = std::env::temp_dir().join(format!("{}.libcuda.so.1", std::process::id()));
    std::fs::write(&path, image()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // SAFETY: the library has no code.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let _ = std::fs::remove_file(&path); // the mapping stays
    let library = library
        .unwrap_or_else(|error| panic!("the alias `libcuda.so.1` cannot be loaded: {error}"));
    let _ = library.into_raw(); // it must stay loaded
}

/// Returns the library as a file: header, program headers, dynamic section, the empty first symbol,
/// an empty hash table, and the strings (System V ABI, "Object Files" and "Program Loading").
fn image() -> Vec<u8> {
    let mut image = Vec::with_capacity(END as usize);
    let machine: u16 = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend_from_slice(&3_u16.to_le_bytes()); // a shared object
    image.extend_from_slice(&machine.to_le_bytes());
    image.extend_from_slice(&1_u32.to_le_bytes());
    for field in [0, HEADER, 0] {
        image.extend_from_slice(&field.to_le_bytes()); // entry, program headers, section headers
    }
    image.extend_from_slice(&0_u32.to_le_bytes());
    for field in [HEADER, PROGRAM_HEADER, PROGRAM_HEADERS, 0, 0, 0] {
        image.extend_from_slice(&(field as u16).to_le_bytes());
    }
    const READ_WRITE: u32 = 6; // the loader may write addresses into the dynamic section
    program_header(&mut image, 1, READ_WRITE, 0, END, 0x1_0000); // PT_LOAD
    program_header(&mut image, 2, READ_WRITE, DYNAMIC, SYMBOLS - DYNAMIC, 8); // PT_DYNAMIC
    program_header(&mut image, 0x6474_e551, READ_WRITE, 0, 0, 16); // PT_GNU_STACK: not executable
    let entries = [
        (1, NEEDED),                // DT_NEEDED
        (14, NAME),                 // DT_SONAME
        (4, HASH),                  // DT_HASH
        (5, TEXT),                  // DT_STRTAB
        (6, SYMBOLS),               // DT_SYMTAB
        (10, STRINGS.len() as u64), // DT_STRSZ
        (11, SYMBOL),               // DT_SYMENT
        (0, 0),                     // DT_NULL
    ];
    for (tag, value) in entries {
        image.extend_from_slice(&u64::to_le_bytes(tag));
        image.extend_from_slice(&value.to_le_bytes());
    }
    image.extend_from_slice(&[0; SYMBOL as usize]);
    for word in [1_u32, 1, 0, 0] {
        image.extend_from_slice(&word.to_le_bytes()); // one bucket, one symbol, both empty
    }
    image.extend_from_slice(STRINGS);
    image
}

fn program_header(image: &mut Vec<u8>, kind: u32, flags: u32, at: u64, len: u64, align: u64) {
    image.extend_from_slice(&kind.to_le_bytes());
    image.extend_from_slice(&flags.to_le_bytes());
    for field in [at, at, at, len, len, align] {
        image.extend_from_slice(&field.to_le_bytes());
    }
}
