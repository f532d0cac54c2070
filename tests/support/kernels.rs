//! What another user of the same GPU does: streams and kernels of its own, through cudarc.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
    result,
};
use cudarc::nvrtc::Ptx;
use vram_residency::device::CudaView;

pub fn address(view: CudaView<'_>) -> CUdeviceptr {
    let stream = user();
    let (address, _sync) = view.device_ptr(&stream);
    address
}

/// A stream of whoever uses the GPU besides.
pub fn user() -> Arc<CudaStream> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: each stream is used by one thread and waited for.
    unsafe { context.disable_event_tracking() };
    context.new_stream().unwrap()
}

/// Adds one to the word at an address.
const INCREMENT: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry increment(.param .u64 increment_param_0)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [increment_param_0];
    ld.global.u32 %r1, [%rd1];
    add.s32 %r2, %r1, 1;
    st.global.u32 [%rd1], %r2;
    ret;
}";

/// A kernel that writes where it must not. Whether it was refused tells the next wait.
pub fn increment(stream: &Arc<CudaStream>, address: CUdeviceptr) {
    let kernel = load(stream, INCREMENT, "increment");
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&address);
    // SAFETY: the argument is the kernel's; that the address may not be written to is what is tried.
    unsafe { launch.launch(grid(1, 1)) }.unwrap();
}

/// A copy of four bytes to where it must not go.
pub fn copy_to(stream: &Arc<CudaStream>, address: CUdeviceptr) -> Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    // SAFETY: the bytes are static; that the address may not be written to is what is tried.
    unsafe { result::memcpy_htod_async(address, b"oops", stream.cu_stream()) }
}

/// A memset of four bytes where it must not be.
pub fn set_at(stream: &Arc<CudaStream>, address: CUdeviceptr) -> Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    // SAFETY: no host memory is touched; that the address may not be written to is what is tried.
    unsafe { result::memset_d8_async(address, 0x5a, 4, stream.cu_stream()) }
}

/// Stores 1 in a word if any of `count` words is the one that is looked for.
const SEEK: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry seek(
    .param .u64 seek_words,
    .param .u64 seek_count,
    .param .u32 seek_wanted,
    .param .u64 seek_found)
{
    .reg .pred %p<3>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [seek_words];
    ld.param.u64 %rd2, [seek_count];
    ld.param.u32 %r1, [seek_wanted];
    ld.param.u64 %rd3, [seek_found];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %nctaid.x;
    mul.wide.u32 %rd4, %r4, %r3;
    cvt.u64.u32 %rd5, %r2;
    add.u64 %rd4, %rd4, %rd5;
    mul.wide.u32 %rd5, %r5, %r3;
NEXT:
    setp.ge.u64 %p1, %rd4, %rd2;
    @%p1 bra DONE;
    shl.b64 %rd6, %rd4, 2;
    add.u64 %rd7, %rd1, %rd6;
    ld.global.u32 %r6, [%rd7];
    add.u64 %rd4, %rd4, %rd5;
    setp.ne.u32 %p2, %r6, %r1;
    @%p2 bra NEXT;
    mov.u32 %r6, 1;
    st.global.u32 [%rd3], %r6;
DONE:
    ret;
}";

/// Whether a word is anywhere in some of the GPU's memory, as a kernel sees it.
pub fn holds_word(stream: &Arc<CudaStream>, address: CUdeviceptr, bytes: u64, word: u32) -> bool {
    let kernel = load(stream, SEEK, "seek");
    let found = stream.alloc_zeros::<u32>(1).unwrap();
    let words = bytes / 4;
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&address).arg(&words).arg(&word).arg(&found);
    let blocks = words.div_ceil(128).min(4096) as u32;
    // SAFETY: the arguments are the kernel's, and it stays within `words`; whatever is there may be read.
    unsafe { launch.launch(grid(blocks, 128)) }.unwrap();
    let found = stream.clone_dtoh(&found).unwrap();
    stream.synchronize().unwrap();
    found == [1]
}

/// `a[i] = b[i] + s * c[i]` over 32-bit words, 16 bytes in a thread. In whole numbers: the memory is the
/// limit in either case, and a simulated GPU has no others.
const TRIAD: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry triad(
    .param .u64 triad_a,
    .param .u64 triad_b,
    .param .u64 triad_c,
    .param .u32 triad_s,
    .param .u32 triad_count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [triad_a];
    ld.param.u64 %rd2, [triad_b];
    ld.param.u64 %rd3, [triad_c];
    ld.param.u32 %r1, [triad_s];
    ld.param.u32 %r2, [triad_count];
    mov.u32 %r3, %tid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %ctaid.x;
    mad.lo.u32 %r6, %r5, %r4, %r3;
    setp.ge.u32 %p1, %r6, %r2;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r6, 16;
    add.u64 %rd5, %rd2, %rd4;
    add.u64 %rd6, %rd3, %rd4;
    add.u64 %rd7, %rd1, %rd4;
    ld.global.v4.u32 {%r7, %r8, %r9, %r10}, [%rd5];
    ld.global.v4.u32 {%r11, %r12, %r13, %r14}, [%rd6];
    mad.lo.u32 %r15, %r11, %r1, %r7;
    mad.lo.u32 %r16, %r12, %r1, %r8;
    mad.lo.u32 %r17, %r13, %r1, %r9;
    mad.lo.u32 %r18, %r14, %r1, %r10;
    st.global.v4.u32 [%rd7], {%r15, %r16, %r17, %r18};
DONE:
    ret;
}";

/// A kernel that memory alone limits.
pub struct Triad {
    stream: Arc<CudaStream>,
    kernel: CudaFunction,
    a: CUdeviceptr,
    b: CUdeviceptr,
    c: CUdeviceptr,
    len: usize,
}

impl Triad {
    const FACTOR: u32 = 3;
    const B: u8 = 7;
    const C: u8 = 5;

    /// Three arrays of `len` bytes, a multiple of 16.
    pub fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        let kernel = load(stream, TRIAD, "triad");
        stream.context().bind_to_thread()?;
        // SAFETY: plain memory, given back in `drop`.
        let array = || unsafe { result::malloc_sync(len) };
        let triad = Self {
            stream: Arc::clone(stream),
            kernel,
            a: array()?,
            b: array()?,
            c: array()?,
            len,
        };
        for (address, value) in [(triad.a, 0), (triad.b, Self::B), (triad.c, Self::C)] {
            // SAFETY: `len` bytes were allocated there.
            unsafe { result::memset_d8_async(address, value, len, stream.cu_stream()) }?;
        }
        stream.synchronize()?;
        Ok(triad)
    }

    /// Bytes that one launch reads and writes.
    pub fn traffic(&self) -> u64 {
        3 * self.len as u64
    }

    pub fn launch(&self) -> Result<(), DriverError> {
        const THREADS: u32 = 256;
        let vectors = (self.len / 16) as u32;
        let mut launch = self.stream.launch_builder(&self.kernel);
        launch.arg(&self.a).arg(&self.b).arg(&self.c);
        launch.arg(&Self::FACTOR).arg(&vectors);
        // SAFETY: the arguments are the kernel's, and it stays within `len` bytes of each array.
        unsafe { launch.launch(grid(vectors.div_ceil(THREADS), THREADS)) }?;
        Ok(())
    }

    /// Whether what came out at both ends is right.
    pub fn is_right(&self) -> Result<bool, DriverError> {
        let word = |byte| u32::from_le_bytes([byte; 4]);
        let expected = word(Self::B).wrapping_add(Self::FACTOR.wrapping_mul(word(Self::C)));
        self.stream.context().bind_to_thread()?;
        let mut words = [0_u32; 2];
        for (word, offset) in words.iter_mut().zip([0, self.len as u64 - 4]) {
            let from = self.a + offset;
            // SAFETY: `from` is in the array, and the copy is waited for.
            unsafe { result::memcpy_dtoh_sync(std::slice::from_mut(word), from) }?;
        }
        Ok(words == [expected; 2])
    }
}

impl Drop for Triad {
    fn drop(&mut self) {
        if self.stream.synchronize().is_err() {
            return; // the context is lost, and its memory with it
        }
        for address in [self.a, self.b, self.c] {
            // SAFETY: it was allocated in `new`, and the stream has been waited for.
            let _nobody_to_tell = unsafe { result::free_sync(address) };
        }
    }
}

fn load(stream: &Arc<CudaStream>, ptx: &str, name: &str) -> CudaFunction {
    let module = stream.context().load_module(Ptx::from_src(ptx)).unwrap();
    module.load_function(name).unwrap()
}

fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// The attribute of a GPU, if its driver tells it.
pub fn attribute(context: &CudaContext, attribute: sys::CUdevice_attribute) -> Option<i32> {
    context.attribute(attribute).ok().filter(|value| *value > 0)
}
