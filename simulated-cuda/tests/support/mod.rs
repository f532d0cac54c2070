//! What several tests need: bytes that look random, and a memory without a driver.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "a call in C is unsafe as a whole"
)]

pub mod digest;

use std::cell::UnsafeCell;

use simulated_cuda::ptx::{Access, Memory, Window};

/// So many bytes, the same for the same seed (splitmix64).
pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes());
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// Pieces of memory, far from each other. Each begins 48 bytes before a multiple of 2^33, at a multiple of
/// 16 and no higher power of two, so that addresses need all their bits and sums of them all carries.
#[derive(Default)]
pub struct Flat(Vec<Piece>);

struct Piece {
    start: u64,
    bytes: UnsafeCell<Vec<u8>>,
    writable: bool,
}

impl Flat {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece that may be read and written, and returns its address.
    pub fn add(&mut self, bytes: &[u8]) -> u64 {
        self.place(self.next(), bytes, true)
    }

    /// Adds a piece that may only be read.
    pub fn add_read_only(&mut self, bytes: &[u8]) -> u64 {
        self.place(self.next(), bytes, false)
    }

    /// The address of the next piece.
    pub fn next(&self) -> u64 {
        (1 << 62) + ((self.0.len() as u64 + 1) << 33) - 48
    }

    /// Adds a piece at an address that the caller keeps apart from all others.
    pub fn place(&mut self, start: u64, bytes: &[u8], writable: bool) -> u64 {
        let bytes = UnsafeCell::new(bytes.to_vec());
        self.0.push(Piece {
            start,
            bytes,
            writable,
        });
        start
    }

    pub fn read(&mut self, address: u64, len: usize) -> Vec<u8> {
        let piece = self.0.iter_mut().find(|piece| piece.start == address);
        piece.expect("a piece's address").bytes.get_mut()[..len].to_vec()
    }
}

// SAFETY: the vectors are never resized after `place`, nor borrowed while `self` is.
unsafe impl Memory for Flat {
    fn window(&self, address: u64, access: Access) -> Option<Window> {
        self.0.iter().find_map(|piece| {
            // SAFETY: nobody else has a reference to the vector: `read` borrows `self` mutably.
            let vector = unsafe { &mut *piece.bytes.get() };
            let (start, len) = (piece.start, vector.len() as u64);
            let inside = address >= start && address - start < len;
            (inside && (access == Access::Read || piece.writable)).then_some(Window {
                start,
                len,
                bytes: vector.as_mut_ptr(),
            })
        })
    }
}

/// Calls an entry point as C would, in the library that is found under its usual name, and returns its
/// code. The types are those of the arguments.
#[macro_export]
macro_rules! cu {
    ($name:ident $(, $value:expr)*) => {
        $crate::support::Arguments::call(($($value,)*), stringify!($name))
    };
}

/// Arguments of an entry point.
pub trait Arguments {
    fn call(self, name: &str) -> u32;
}

macro_rules! arguments {
    ($($name:ident)*) => {
        impl<$($name),*> Arguments for ($($name,)*) {
            #[allow(non_snake_case, reason = "the types' names are the arguments'")]
            fn call(self, name: &str) -> u32 {
                let ($($name,)*) = self;
                // SAFETY: the tests pass what the function's declaration in `cuda.h` asks for.
                let function = unsafe {
                    library().get::<unsafe extern "C" fn($($name),*) -> u32>(name.as_bytes())
                };
                let function = function.expect(name);
                // SAFETY: the same.
                unsafe { function($($name),*) }
            }
        }
    };
}

arguments!();
arguments!(A);
arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E F);
arguments!(A B C D E F G);
arguments!(A B C D E F G H I J K);

/// The driver, by the name that `nvidia-smi` and others look for.
pub fn library() -> &'static libloading::Library {
    static LIBRARY: std::sync::OnceLock<libloading::Library> = std::sync::OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: the tests have loaded the simulated driver before.
        let library = unsafe { libloading::Library::new("libcuda.so.1") };
        library.expect("libcuda.so.1")
    })
}

/// Initialises the driver, and makes the context of a device current.
pub fn open(ordinal: i32) -> u64 {
    assert_eq!(cu!(cuInit, 0_u32), 0);
    let mut context = 0_u64;
    assert_eq!(cu!(cuDevicePrimaryCtxRetain, &raw mut context, ordinal), 0);
    assert_eq!(cu!(cuCtxSetCurrent, context), 0);
    context
}

pub fn allocate(bytes: usize) -> u64 {
    let mut address = 0_u64;
    assert_eq!(cu!(cuMemAlloc_v2, &raw mut address, bytes), 0);
    address
}

/// A stream that does not wait for the legacy default stream.
pub fn stream() -> u64 {
    let mut stream = 0_u64;
    assert_eq!(cu!(cuStreamCreate, &raw mut stream, 1_u32), 0);
    stream
}

/// So many bytes of a device, copied by the driver and waited for.
pub fn read(address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xcc; len];
    assert_eq!(cu!(cuMemcpyDtoH_v2, bytes.as_mut_ptr(), address, len), 0);
    bytes
}

pub fn write(address: u64, bytes: &[u8]) {
    assert_eq!(
        cu!(cuMemcpyHtoD_v2, address, bytes.as_ptr(), bytes.len()),
        0
    );
    assert_eq!(cu!(cuStreamSynchronize, 0_u64), 0);
}

/// A kernel of a module.
pub fn kernel(ptx: &str, name: &str) -> u64 {
    let (mut module, mut function) = (0_u64, 0_u64);
    let text = std::ffi::CString::new(ptx).unwrap();
    assert_eq!(cu!(cuModuleLoadData, &raw mut module, text.as_ptr()), 0);
    let name = std::ffi::CString::new(name).unwrap();
    assert_eq!(
        cu!(
            cuModuleGetFunction,
            &raw mut function,
            module,
            name.as_ptr()
        ),
        0
    );
    function
}

/// Launches one thread with parameters of 8 bytes each.
pub fn launch(function: u64, stream: u64, params: &[u64]) -> u32 {
    let mut addresses: Vec<*const u64> = params.iter().map(std::ptr::from_ref).collect();
    let none = std::ptr::null_mut::<u64>();
    cu!(
        cuLaunchKernel,
        function,
        1_u32,
        1_u32,
        1_u32,
        1_u32,
        1_u32,
        1_u32,
        0_u32,
        stream,
        addresses.as_mut_ptr(),
        none
    )
}

/// A kernel `access(address, value)` that adds the value to the word at the address.
pub const ADD: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry access(.param .u64 access_param_0, .param .u64 access_param_1)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [access_param_0];
    ld.param.u32 %r1, [access_param_1];
    ld.global.u32 %r2, [%rd1];
    add.s32 %r3, %r2, %r1;
    st.global.u32 [%rd1], %r3;
    ret;
}";

/// `CUmemAllocationProp` for memory of a device.
#[repr(C)]
pub struct Properties {
    pub kind: u32,
    pub handle_types: u32,
    pub location: [i32; 2],
    pub win32: u64,
    pub flags: u64,
}

/// `CUmemAccessDesc`
#[repr(C)]
pub struct AccessOf {
    pub location: [i32; 2],
    pub flags: u32,
}

pub const MIB2: usize = 2 << 20;

pub fn properties(device: i32) -> Properties {
    Properties {
        kind: 1,
        handle_types: 0,
        location: [1, device],
        win32: 0,
        flags: 0,
    }
}

/// Physical memory of device 0.
pub fn create(bytes: usize) -> u64 {
    let mut handle = 0_u64;
    let wanted = properties(0);
    assert_eq!(
        cu!(
            cuMemCreate,
            &raw mut handle,
            bytes,
            &raw const wanted,
            0_u64
        ),
        0
    );
    handle
}

pub fn reserve(bytes: usize) -> u64 {
    let mut address = 0_u64;
    assert_eq!(
        cu!(
            cuMemAddressReserve,
            &raw mut address,
            bytes,
            0_usize,
            0_u64,
            0_u64
        ),
        0
    );
    address
}

pub fn map(address: u64, bytes: usize, handle: u64) -> u32 {
    cu!(cuMemMap, address, bytes, 0_usize, handle, 0_u64)
}

pub fn set_access(address: u64, bytes: usize, flags: u32) -> u32 {
    let description = AccessOf {
        location: [1, 0],
        flags,
    };
    cu!(
        cuMemSetAccess,
        address,
        bytes,
        &raw const description,
        1_usize
    )
}

/// Memory of a mapping of its own, readable and writable.
pub fn mapped(bytes: usize) -> u64 {
    let (handle, address) = (create(bytes), reserve(bytes));
    assert_eq!(map(address, bytes, handle), 0);
    assert_eq!(set_access(address, bytes, 3), 0);
    assert_eq!(cu!(cuMemRelease, handle), 0);
    address
}

/// A kernel `test(out, a, b, c)` around the instructions: `%rd1` is `out`, `%r1` to `%r3` are the lower
/// halves of the parameters `a` to `c`, and `%rd2` to `%rd4` all of them.
pub fn module(body: &str) -> String {
    format!(
        ".version 7.0
        .target sm_75
        .address_size 64
        .visible .entry test(.param .u64 out, .param .u64 a, .param .u64 b, .param .u64 c)
        {{
            .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
            ld.param.u64 %rd1, [out];
            ld.param.u64 %rd2, [a]; ld.param.u64 %rd3, [b]; ld.param.u64 %rd4, [c];
            ld.param.u32 %r1, [a]; ld.param.u32 %r2, [b]; ld.param.u32 %r3, [c];
            {body}
            ret;
        }}"
    )
}
