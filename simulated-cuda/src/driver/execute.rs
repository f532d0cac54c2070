//! The execution of queued work: bytes move, kernels run, and a failure loses the context.

use std::sync::Arc;

use crate::ptx::{Access, Launch, Stop};
use crate::wire::Direction;

use super::code::{self, Code};
use super::context;
use super::memory::{BadAddress, DeviceMemory};
use super::module::Program;
use super::state::State;

/// The maximum number of branches in a launch, which take some seconds.
const BRANCHES: u64 = 1 << 29;

/// Host memory that a copy reads.
#[derive(Clone, Debug)]
pub enum HostSource {
    /// Read when the copy is executed: pinned memory, or a node of a graph.
    Direct(u64),
    /// Read when the copy was called: pageable memory.
    Staged(Arc<[u8]>),
}

/// A piece of work for a device.
#[derive(Clone, Debug)]
pub enum Work {
    DeviceToDevice {
        to: u64,
        from: u64,
        len: u64,
    },
    DeviceToHost {
        to: u64,
        from: u64,
        len: u64,
    },
    Free {
        address: u64,
    },
    Graph {
        works: Arc<Vec<Work>>,
    },
    HostFunction {
        function: unsafe extern "C" fn(*mut std::ffi::c_void),
        data: u64,
    },
    HostToDevice {
        to: u64,
        from: HostSource,
        len: u64,
    },
    Kernel(Box<KernelLaunch>),
    /// No work: only the work before it matters.
    Nothing,
    Record {
        event: u64,
        stamp: u64,
    },
    Set {
        to: u64,
        pattern: u32,
        width: u64,
        count: u64,
    },
}

#[derive(Clone, Debug)]
pub struct KernelLaunch {
    pub program: Arc<Program>,
    pub kernel: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub params: Vec<u8>,
}

impl State {
    /// Executes a piece of work. On a lost context, nothing happens.
    pub fn execute(&mut self, device: usize, work: Work) {
        if self.check(device).is_err() {
            return;
        }
        let fault = match &work {
            Work::DeviceToDevice { .. } | Work::DeviceToHost { .. } | Work::HostToDevice { .. } => {
                self.faults.strike("execute:copy")
            }
            Work::Kernel(_) => self.faults.strike("execute:kernel"),
            Work::Set { .. } => self.faults.strike("execute:set"),
            _ => None,
        };
        let result = match fault {
            Some(fault) => Err(fault.code),
            None => self.carry_out(device, work),
        };
        if let Err(code) = result {
            self.lose(device, code);
        }
    }

    fn carry_out(&mut self, device: usize, work: Work) -> Result<(), Code> {
        match work {
            Work::DeviceToDevice { to, from, len } => self.device_to_device(device, to, from, len),
            Work::DeviceToHost { to, from, len } => self.device_to_host(device, to, from, len),
            Work::HostToDevice { to, from, len } => self.host_to_device(device, to, &from, len),
            Work::Set {
                to,
                pattern,
                width,
                count,
            } => self.set(device, to, pattern, width, count),
            Work::Kernel(launch) => self.run_kernel(device, &launch),
            Work::Record { event, stamp } => {
                self.recorded(event, stamp);
                Ok(())
            }
            Work::Free { address } => self
                .memory
                .free(address)
                .map_err(|_| illegal("cuMemFreeAsync", address)),
            Work::Graph { works } => {
                for work in works.iter() {
                    self.execute(device, work.clone());
                }
                Ok(())
            }
            Work::HostFunction { function, data } => {
                // SAFETY: the caller of `cuLaunchHostFunc` gave the function for this argument, and
                // promised that both stay valid until it has run.
                context::callback(|| unsafe { function(data as *mut std::ffi::c_void) });
                Ok(())
            }
            Work::Nothing => Ok(()),
        }
    }

    fn host_to_device(
        &mut self,
        device: usize,
        to: u64,
        from: &HostSource,
        len: u64,
    ) -> Result<(), Code> {
        let pieces = self
            .memory
            .accessible(device, to, len, Access::Write)
            .map_err(report)?;
        let mut source = match from {
            HostSource::Direct(address) => *address as *const u8,
            HostSource::Staged(bytes) => bytes.as_ptr(),
        };
        for (piece, bytes) in &pieces {
            // SAFETY: `accessible` checked the target. The source has `len` bytes: staged bytes
            // were copied with this length, and the caller of the copy promised to keep direct
            // ones. The two may overlap when both are pinned.
            unsafe { std::ptr::copy(source, *piece, *bytes) };
            source = source.wrapping_add(*bytes);
        }
        self.flip(Direction::HostToDevice, &pieces);
        self.counters.host_to_device += len;
        Ok(())
    }

    fn device_to_host(&mut self, device: usize, to: u64, from: u64, len: u64) -> Result<(), Code> {
        let pieces = self
            .memory
            .accessible(device, from, len, Access::Read)
            .map_err(report)?;
        let mut target = to as *mut u8;
        for (piece, bytes) in pieces {
            // SAFETY: `accessible` checked the source; the caller of the copy promised that the
            // target has `len` bytes until the copy is done. The two may overlap when both are
            // pinned.
            unsafe { std::ptr::copy(piece, target, bytes) };
            target = target.wrapping_add(bytes);
        }
        self.flip(Direction::DeviceToHost, &[(to as *mut u8, len as usize)]);
        self.counters.device_to_host += len;
        Ok(())
    }

    fn device_to_device(
        &mut self,
        device: usize,
        to: u64,
        from: u64,
        len: u64,
    ) -> Result<(), Code> {
        // Between devices, the driver copies through memory that each of them may access itself.
        let owner = |address| {
            self.memory
                .find(address)
                .map_or(device, |(_, mapping)| mapping.device)
        };
        let source = self
            .memory
            .accessible(owner(from), from, len, Access::Read)
            .map_err(report)?;
        let target = self
            .memory
            .accessible(owner(to), to, len, Access::Write)
            .map_err(report)?;
        let mut between = vec![0_u8; len as usize];
        let mut rest = between.as_mut_slice();
        for (piece, bytes) in source {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(bytes);
            // SAFETY: `accessible` checked the source; `part` has as many bytes and is ours.
            unsafe { std::ptr::copy_nonoverlapping(piece, part.as_mut_ptr(), bytes) };
            rest = behind;
        }
        let mut rest = between.as_slice();
        for (piece, bytes) in &target {
            let (part, behind) = rest.split_at(*bytes);
            // SAFETY: `accessible` checked the target; `part` has as many bytes and is ours.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), *piece, *bytes) };
            rest = behind;
        }
        self.flip(Direction::DeviceToDevice, &target);
        self.counters.device_to_device += len;
        Ok(())
    }

    fn set(
        &mut self,
        device: usize,
        to: u64,
        pattern: u32,
        width: u64,
        count: u64,
    ) -> Result<(), Code> {
        let pieces = self
            .memory
            .accessible(device, to, width * count, Access::Write)
            .map_err(report)?;
        let pattern = pattern.to_le_bytes();
        for &(piece, bytes) in &pieces {
            if width == 1 {
                // SAFETY: `accessible` checked `bytes` bytes from `piece` on.
                unsafe { piece.write_bytes(pattern[0], bytes) };
                continue;
            }
            // Pieces begin at multiples of the width, because the range and all mappings do.
            for at in 0..bytes {
                let value = pattern[at % width as usize];
                // SAFETY: `accessible` checked `bytes` bytes from `piece` on.
                unsafe { piece.wrapping_add(at).write(value) };
            }
        }
        self.flip(Direction::Memset, &pieces);
        self.counters.set += width * count;
        Ok(())
    }

    /// Flips a bit of the last copy, or of memory at rest, if a test has ordered it.
    fn flip(&mut self, direction: Direction, pieces: &[(*mut u8, usize)]) {
        if let Some((address, mask)) = self.faults.behind(direction) {
            self.memory.flip(address, mask);
        }
        let total = pieces.iter().map(|(_, bytes)| bytes).sum();
        if total == 0 {
            return;
        }
        let Some(bit) = self.faults.flip_of(direction, total) else {
            return;
        };
        let mut at = (bit / 8) as usize;
        for (piece, bytes) in pieces {
            if at < *bytes {
                let byte = piece.wrapping_add(at);
                // SAFETY: inside a piece that was just written to.
                let value = unsafe { byte.read() };
                // SAFETY: the same byte.
                unsafe { byte.write(value ^ 1 << (bit % 8)) };
                return;
            }
            at -= bytes;
        }
    }

    fn run_kernel(&mut self, device: usize, launch: &KernelLaunch) -> Result<(), Code> {
        let kernel = &launch.program.module.kernels[launch.kernel];
        let run = Launch {
            kernel,
            grid: launch.grid,
            block: launch.block,
            params: &launch.params,
            variables: &launch.program.variables,
            branches: BRANCHES,
            corruption: self.faults.corruption(),
        };
        let result = run.run(&DeviceMemory {
            memory: &self.memory,
            device,
        });
        self.counters.launches += 1;
        self.counters.blocks += run.blocks();
        let Err(stop) = result else { return Ok(()) };
        let (code, line, what) = match stop {
            Stop::Illegal {
                address,
                access,
                line,
            } => {
                let access = if access == Access::Read {
                    "read from"
                } else {
                    "write to"
                };
                (
                    code::ILLEGAL_ADDRESS,
                    line,
                    format!("illegal {access} {address:#x}"),
                )
            }
            Stop::Misaligned { address, line } => (
                code::MISALIGNED_ADDRESS,
                line,
                format!("misaligned access to {address:#x}"),
            ),
            Stop::Timeout => (code::LAUNCH_TIMEOUT, 0, "no end in sight".to_owned()),
            Stop::Trap { line } => (code::LAUNCH_FAILED, line, "trap".to_owned()),
        };
        eprintln!(
            "simulated-cuda: kernel `{}`, PTX line {line}: {what}",
            kernel.name
        );
        Err(code)
    }
}

fn report(bad: BadAddress) -> Code {
    let BadAddress { address, access } = bad;
    eprintln!("simulated-cuda: a copy or memset may not {access:?} at {address:#x}");
    code::ILLEGAL_ADDRESS
}

fn illegal(what: &str, address: u64) -> Code {
    eprintln!("simulated-cuda: {what} of {address:#x}, which is not allocated");
    code::ILLEGAL_ADDRESS
}
