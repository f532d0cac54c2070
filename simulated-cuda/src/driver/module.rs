//! Modules loaded into a context, and launches of their kernels.

use std::sync::Arc;

use crate::ptx::{Kernel, Module};

use super::code::{self, Code};
use super::execute::{KernelLaunch, Work};
use super::memory::Origin;
use super::state::State;
use super::stream::PRIORITIES;

/// A module, and the addresses of its variables on the device.
#[derive(Debug)]
pub struct Program {
    pub module: Module,
    pub variables: Vec<u64>,
}

#[derive(Debug)]
pub struct LoadedModule {
    pub device: usize,
    pub program: Arc<Program>,
}

/// A kernel that an application has a handle for.
#[derive(Clone, Debug)]
pub struct Function {
    pub module: u64,
    pub device: usize,
    pub program: Arc<Program>,
    pub kernel: usize,
    pub attributes: std::collections::BTreeMap<u32, i32>,
}

impl Function {
    pub fn kernel(&self) -> &Kernel {
        &self.program.module.kernels[self.kernel]
    }

    pub fn max_threads(&self) -> u32 {
        self.kernel().max_threads.unwrap_or(1024).min(1024)
    }
}

const CUBIN: &[u8] = b"\x7fELF";
const FATBIN: &[u8] = b"\x50\xed\x55\xba";

/// The source of a launch's parameters, as CUDA passes them: an array of addresses, or one buffer.
#[derive(Clone, Copy, Debug)]
pub enum Params<'a> {
    Buffer(&'a [u8]),
    /// Reads the parameter with this number into the bytes.
    Each(&'a dyn ParamReader),
}

pub trait ParamReader: std::fmt::Debug {
    fn read(&self, index: usize, into: &mut [u8]) -> Result<(), Code>;
}

impl State {
    /// Loads a module's text. The error has a message with the reason.
    pub fn load_module(&mut self, device: usize, image: &[u8]) -> Result<u64, (Code, String)> {
        if image.starts_with(CUBIN) || image.starts_with(FATBIN) {
            let what = "this driver runs PTX, and no compiled code";
            return Err((code::NO_BINARY_FOR_GPU, what.to_owned()));
        }
        let text = std::str::from_utf8(image)
            .map_err(|_| (code::INVALID_IMAGE, "the module is no text".to_owned()))?;
        let module =
            Module::parse(text).map_err(|refusal| (code::INVALID_PTX, refusal.to_string()))?;
        // CUDA 11.0 reads PTX 7.0, and later versions follow in step.
        let newest = (
            self.driver_version as u32 / 1000 - 4,
            self.driver_version as u32 % 1000 / 10,
        );
        if module.version > newest {
            let what = format!(
                "PTX {:?} is newer than the driver, which reads {newest:?}",
                module.version
            );
            return Err((code::UNSUPPORTED_PTX_VERSION, what));
        }
        let capability = 10 * self.devices[device].major + self.devices[device].minor;
        if module.target > capability {
            let what = format!(
                "the module is for sm_{}, the device is sm_{capability}",
                module.target
            );
            return Err((code::NO_BINARY_FOR_GPU, what));
        }
        let variables = self
            .place_variables(device, &module)
            .map_err(|code| (code, "no memory".to_owned()))?;
        let handle = self.handle();
        let program = Arc::new(Program { module, variables });
        self.modules
            .insert(handle, LoadedModule { device, program });
        Ok(handle)
    }

    fn place_variables(&mut self, device: usize, module: &Module) -> Result<Vec<u64>, Code> {
        let mut addresses = Vec::new();
        for variable in &module.variables {
            let origin = Origin::Module {
                constant: variable.constant,
            };
            let address = self
                .memory
                .allocate(device, variable.bytes.len() as u64, origin)?;
            if let Some((_, mapping)) = self.memory.find(address) {
                // SAFETY: the mapping was just made with this length, and no other code knows of
                // it.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        variable.bytes.as_ptr(),
                        mapping.bytes,
                        variable.bytes.len(),
                    );
                }
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Unloads a module and its functions. Launches in progress still run.
    pub fn unload_module(&mut self, handle: u64) -> Result<(), Code> {
        let device = self
            .modules
            .get(&handle)
            .ok_or(code::INVALID_HANDLE)?
            .device;
        self.run_all(device);
        if let Some(module) = self.modules.remove(&handle) {
            for address in &module.program.variables {
                let _ = self.memory.free(*address); // allocated when the module was loaded
            }
        }
        self.functions
            .retain(|_, function| function.module != handle);
        self.check(device)
    }

    pub fn function(&mut self, module: u64, name: &str) -> Result<u64, Code> {
        let loaded = self.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        let kernels = &loaded.program.module.kernels;
        let kernel = kernels
            .iter()
            .position(|kernel| kernel.name == name)
            .ok_or(code::NOT_FOUND)?;
        let (device, program) = (loaded.device, loaded.program.clone());
        let handle = self.handle();
        let attributes = std::collections::BTreeMap::new();
        self.functions.insert(
            handle,
            Function {
                module,
                device,
                program,
                kernel,
                attributes,
            },
        );
        Ok(handle)
    }

    /// Queues a launch. The parameters are read immediately.
    pub fn launch(
        &mut self,
        function: u64,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        key: u64,
        params: Params<'_>,
    ) -> Result<(), Code> {
        let function = self.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        let stream = &self.streams[&key];
        if function.device != stream.device {
            return Err(code::INVALID_HANDLE);
        }
        let limits = [
            (grid, [i32::MAX as u32, 65_535, 65_535]),
            (block, [1024, 1024, 64]),
        ];
        for (size, limit) in limits {
            if size
                .iter()
                .zip(limit)
                .any(|(size, limit)| *size == 0 || *size > limit)
            {
                return Err(code::INVALID_VALUE);
            }
        }
        let threads = block
            .iter()
            .fold(1, |product: u32, size| product.saturating_mul(*size));
        if threads > 1024 || shared > 48 << 10 {
            return Err(code::INVALID_VALUE);
        }
        if threads > function.max_threads() {
            return Err(code::LAUNCH_OUT_OF_RESOURCES);
        }
        let kernel = function.kernel();
        let mut bytes = vec![0; kernel.params_len()];
        match params {
            Params::Buffer(buffer) if buffer.len() < bytes.len() => {
                return Err(code::INVALID_VALUE);
            }
            Params::Buffer(buffer) => bytes.copy_from_slice(&buffer[..kernel.params_len()]),
            Params::Each(reader) => {
                for (index, (offset, len)) in kernel.params.iter().enumerate() {
                    reader.read(index, &mut bytes[*offset as usize..(offset + len) as usize])?;
                }
            }
        }
        let program = function.program.clone();
        let launch = KernelLaunch {
            program,
            kernel: function.kernel,
            grid,
            block,
            params: bytes,
        };
        if self.streams[&key].priority < PRIORITIES.0 {
            self.counters.urgent_launches += 1;
        }
        if let Some(multiprocessors) = self.held_to(key) {
            self.counters.held_launches += 1;
            self.counters.held_to = u64::from(multiprocessors);
        }
        self.enqueue(key, Work::Kernel(Box::new(launch)))
            .map(|_| ())
    }
}
