//! The simulated devices that a test configures.

use crate::wire::DeviceWire;

/// A simulated device.
///
/// The default has little memory and few multiprocessors, so that tests are fast, and all abilities
/// of a recent GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// The name, truncated to 63 bytes.
    pub name: String,
    pub uuid: [u8; 16],
    /// The UUID of the GPU partition (MIG), if the device is one; `uuid` is the UUID of the whole
    /// GPU.
    pub instance_uuid: Option<[u8; 16]>,
    pub compute_capability: (u32, u32),
    /// The size of the memory in bytes.
    pub total_memory: u64,
    pub multiprocessors: u32,
    pub ecc: bool,
    /// Whether the device shares the host's memory, as a Jetson does.
    pub integrated: bool,
    /// Whether the device has managed memory.
    pub managed: bool,
    /// Whether the device has the virtual-memory API.
    pub virtual_memory: bool,
    /// Whether the device has memory pools; cudarc allocates from them if so.
    pub memory_pools: bool,
}

impl Device {
    /// Returns the default device with this ordinal, which its name and UUID contain.
    pub fn numbered(ordinal: u8) -> Self {
        let mut uuid = *b"simulated GPU 00";
        uuid[14] = b'0' + ordinal / 10;
        uuid[15] = b'0' + ordinal % 10;
        Self {
            name: format!("Simulated GPU {ordinal}"),
            uuid,
            instance_uuid: None,
            compute_capability: (9, 0),
            total_memory: 1 << 30,
            multiprocessors: 8,
            ecc: true,
            integrated: false,
            managed: true,
            virtual_memory: true,
            memory_pools: true,
        }
    }

    pub(crate) fn to_wire(&self) -> DeviceWire {
        let mut name = [0; 64];
        let bytes = &self.name.as_bytes()[..self.name.len().min(63)];
        name[..bytes.len()].copy_from_slice(bytes);
        DeviceWire {
            name,
            uuid: self.uuid,
            instance_uuid: self.instance_uuid.unwrap_or(self.uuid),
            major: self.compute_capability.0,
            minor: self.compute_capability.1,
            total_memory: self.total_memory,
            multiprocessors: self.multiprocessors,
            ecc: self.ecc.into(),
            integrated: self.integrated.into(),
            managed: self.managed.into(),
            virtual_memory: self.virtual_memory.into(),
            memory_pools: self.memory_pools.into(),
        }
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::numbered(0)
    }
}
