//! The data that passes between a test and its driver. The two are different copies of this crate,
//! so every type here has C's layout, and none is a reference.

/// The version of this interface. It changes with every change here: both sides must be built from
/// the same source.
pub const VERSION: u32 = 6;

/// A simulated device, as [`Device`](crate::Device) describes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceWire {
    pub name: [u8; 64],
    pub uuid: [u8; 16],
    pub instance_uuid: [u8; 16],
    pub major: u32,
    pub minor: u32,
    pub total_memory: u64,
    pub multiprocessors: u32,
    pub ecc: u32,
    pub integrated: u32,
    pub managed: u32,
    pub virtual_memory: u32,
    pub memory_pools: u32,
}

/// The driver's counts since it was loaded. Bytes are counted when a copy is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[non_exhaustive]
pub struct Counters {
    /// Bytes copied from the host to a device; the next fields count the other directions.
    pub host_to_device: u64,
    pub device_to_host: u64,
    pub device_to_device: u64,
    /// Bytes set by memsets.
    pub set: u64,
    /// Executed kernels, and their blocks.
    pub launches: u64,
    pub blocks: u64,
    /// Kernels launched on streams of a green context, and the number of multiprocessors of the
    /// last one.
    pub held_launches: u64,
    pub held_to: u64,
    /// Kernels launched on streams with a higher priority than the lowest.
    pub urgent_launches: u64,
    /// Bytes of device memory in use now, and at the peak.
    pub device_bytes: u64,
    pub peak_device_bytes: u64,
    /// Live allocations of `cuMemAlloc` and similar functions.
    pub allocations: u64,
    /// Live physical allocations of `cuMemCreate`, kept by their handles or mappings.
    pub handles: u64,
    pub mappings: u64,
    pub reservations: u64,
    pub streams: u64,
    pub events: u64,
    pub green_contexts: u64,
    pub modules: u64,
    pub graphs: u64,
    pub executable_graphs: u64,
    /// Bytes of pinned host memory, allocated or registered.
    pub pinned_bytes: u64,
    /// Retained contexts, counted once for each `cuDevicePrimaryCtxRetain`.
    pub contexts: u64,
    /// Work that is queued and not executed yet.
    pub queued: u64,
}

impl Counters {
    pub(crate) const ZERO: Self = Self {
        host_to_device: 0,
        device_to_host: 0,
        device_to_device: 0,
        set: 0,
        launches: 0,
        blocks: 0,
        held_launches: 0,
        held_to: 0,
        urgent_launches: 0,
        device_bytes: 0,
        peak_device_bytes: 0,
        allocations: 0,
        handles: 0,
        mappings: 0,
        reservations: 0,
        streams: 0,
        events: 0,
        green_contexts: 0,
        modules: 0,
        graphs: 0,
        executable_graphs: 0,
        pinned_bytes: 0,
        contexts: 0,
        queued: 0,
    };
}

/// The time when an asynchronous copy from a device to pageable host memory is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PageableReads {
    /// Before the call returns, as drivers were long documented to do, and do.
    BeforeReturn = 0,
    /// When a call waits for it: since CUDA 12, the copy only "might be synchronous". The host
    /// memory must stay valid until then. This is the default.
    Late = 1,
}

/// The kind of copy that a bit flip applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    HostToDevice = 0,
    DeviceToHost = 1,
    DeviceToDevice = 2,
    /// The bytes that a memset writes.
    Memset = 3,
}
