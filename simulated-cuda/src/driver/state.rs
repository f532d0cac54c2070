//! The driver's whole state. Before `cuInit`, a test may choose the devices.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::wire::{Counters, DeviceWire, PageableReads};

use super::capture::Capture;
use super::code::{self, Code};
use super::context::Context;
use super::event::Event;
use super::fault::Faults;
use super::graph::Graph;
use super::green::Green;
use super::memory::{Memory, Origin, Pool};
use super::module::{Function, LoadedModule};
use super::stream::Stream;

/// The version that `cuDriverGetVersion` returns by default: CUDA 13.0.
const VERSION: i32 = 13_000;

#[derive(Debug)]
pub struct State {
    pub initialised: bool,
    pub driver_version: i32,
    /// The devices after `cuInit`, if a test has chosen them.
    planned: Option<Vec<DeviceWire>>,
    pub devices: Vec<DeviceWire>,
    pub contexts: Vec<Context>,
    pub memory: Memory,
    pub streams: BTreeMap<u64, Stream>,
    pub events: BTreeMap<u64, Event>,
    pub captures: BTreeMap<u64, Capture>,
    pub graphs: BTreeMap<u64, Graph>,
    pub executable_graphs: BTreeMap<u64, Graph>,
    /// Sizes of parts for green contexts.
    pub descriptions: BTreeMap<u64, u32>,
    pub greens: BTreeMap<u64, Green>,
    pub modules: BTreeMap<u64, LoadedModule>,
    pub functions: BTreeMap<u64, Function>,
    pub faults: Faults,
    pub counters: Counters,
    pub calls: BTreeMap<&'static str, u64>,
    pub pageable_reads: PageableReads,
    /// False answers about devices and addresses that a test has ordered, by attribute.
    pub attributes: BTreeMap<(usize, u32), i32>,
    pub pointer_attributes: BTreeMap<u32, u64>,
    next_handle: u64,
    next_number: u64,
}

impl State {
    pub const fn new() -> Self {
        Self {
            initialised: false,
            driver_version: VERSION,
            planned: None,
            devices: Vec::new(),
            contexts: Vec::new(),
            memory: Memory::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executable_graphs: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            greens: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            faults: Faults::new(),
            counters: Counters::ZERO,
            calls: BTreeMap::new(),
            pageable_reads: PageableReads::Late,
            attributes: BTreeMap::new(),
            pointer_attributes: BTreeMap::new(),
            next_handle: 0x5_1000_0000_0000,
            next_number: 0,
        }
    }

    /// Chooses the devices. Returns `ILLEGAL_STATE` after `cuInit`.
    pub fn plan(&mut self, devices: Vec<DeviceWire>) -> Result<(), Code> {
        if self.initialised {
            return Err(code::ILLEGAL_STATE);
        }
        self.planned = Some(devices);
        Ok(())
    }

    /// Initialises the driver, as `cuInit` does.
    pub fn initialise(&mut self) -> Result<(), Code> {
        if !self.initialised {
            self.devices = self
                .planned
                .take()
                .unwrap_or_else(|| vec![Device::default().to_wire()]);
            self.contexts = self.devices.iter().map(|_| Context::new()).collect();
            self.memory.pools = self
                .devices
                .iter()
                .map(|device| Pool::new(device.total_memory))
                .collect();
            self.initialised = true;
        }
        if self.devices.is_empty() {
            Err(code::NO_DEVICE)
        } else {
            Ok(())
        }
    }

    pub fn device(&self, ordinal: i32) -> Result<(usize, &DeviceWire), Code> {
        let index = usize::try_from(ordinal).map_err(|_| code::INVALID_DEVICE)?;
        self.devices
            .get(index)
            .map(|device| (index, device))
            .ok_or(code::INVALID_DEVICE)
    }

    /// Returns a handle that was never given before.
    pub fn handle(&mut self) -> u64 {
        self.next_handle += 16;
        self.next_handle
    }

    /// Returns the next number of work, in the order of calls.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub fn count_call(&mut self, name: &'static str) {
        *self.calls.entry(name).or_default() += 1;
    }

    /// Returns the counters as they are now.
    pub fn counters(&self) -> Counters {
        let origin = |wanted: fn(&Origin) -> bool| {
            self.memory
                .maps
                .values()
                .filter(move |mapping| wanted(&mapping.origin))
        };
        Counters {
            device_bytes: self.memory.pools.iter().map(|pool| pool.used).sum(),
            peak_device_bytes: self.memory.peak,
            allocations: origin(|o| {
                matches!(o, Origin::Allocated | Origin::Managed | Origin::Pooled)
            })
            .count() as u64,
            handles: self.memory.physical.len() as u64,
            mappings: origin(|o| matches!(o, Origin::Virtual(_))).count() as u64,
            reservations: self.memory.reservations.len() as u64,
            streams: self
                .streams
                .values()
                .filter(|stream| stream.is_users())
                .count() as u64,
            events: self.events.len() as u64,
            green_contexts: self.greens.len() as u64,
            modules: self.modules.len() as u64,
            graphs: self.graphs.len() as u64,
            executable_graphs: self.executable_graphs.len() as u64,
            pinned_bytes: origin(|o| matches!(o, Origin::Pinned | Origin::Registered))
                .map(|m| m.len)
                .sum(),
            contexts: self
                .contexts
                .iter()
                .map(|context| u64::from(context.retained))
                .sum(),
            queued: self
                .streams
                .values()
                .map(|stream| stream.queue.len() as u64)
                .sum(),
            ..self.counters
        }
    }
}
