//! Modules, functions and launches.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::{In, Out, entry};
use crate::driver::code::{self, Code};
use crate::driver::module::{ParamReader, Params};
use crate::driver::state::State;

/// The supported options of `cuModuleLoadDataEx`.
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;

/// Magic numbers of compiled code, which may contain zeros.
const COMPILED: [[u8; 4]; 2] = [*b"\x7fELF", [0x50, 0xed, 0x55, 0xba]];

fn load(state: &mut State, device: usize, image: &In<c_void>) -> Result<u64, (Code, String)> {
    let refused = |code| (code, "a null address".to_owned());
    state
        .check_unsafe_call()
        .map_err(|code| (code, "a stream is being captured".to_owned()))?;
    let text = In(image.0.cast::<c_char>());
    let first = In(image.0.cast::<[u8; 4]>()).get();
    let loaded = match first.map_err(refused)? {
        magic if COMPILED.contains(&magic) => state.load_module(device, &magic),
        _ => state.load_module(device, text.text().map(CStr::to_bytes).map_err(refused)?),
    };
    loaded.inspect_err(|(_, what)| eprintln!("simulated-cuda: module refused: {what}"))
}

entry! {
    Context fn cuModuleLoadData(module: Out<u64>, image: In<c_void>) |state, device| {
        module.set(load(state, device, &image).map_err(|(code, _)| code)?)
    }
}

entry! {
    Context fn cuModuleLoadDataEx(
        module: Out<u64>,
        image: In<c_void>,
        count: u32,
        options: In<u32>,
        values: Out<*mut c_void>,
    ) |state, device| {
        let loaded = load(state, device, &image);
        let option = |wanted| (0..count as usize).find(|index| options.at(*index).get() == Ok(wanted));
        let value = |index| In(values.at(index).0.cast_const()).get();
        if let (Err((_, what)), Some(buffer), Some(len)) =
            (&loaded, option(ERROR_LOG_BUFFER), option(ERROR_LOG_BYTES))
        {
            let log = Out(value(buffer)?.cast::<u8>());
            let room = (value(len)? as usize).saturating_sub(1);
            let written = what.bytes().take(room).chain([0]);
            for (index, byte) in written.enumerate() {
                log.at(index).set(byte)?;
            }
            values.at(len).set(what.len().min(room) as *mut c_void)?;
        }
        module.set(loaded.map_err(|(code, _)| code)?)
    }
}

entry! {
    Context fn cuModuleUnload(module: u64) |state, _| {
        state.check_unsafe_call()?;
        state.unload_module(module)
    }
}

entry! {
    Context fn cuModuleGetFunction(function: Out<u64>, module: u64, name: In<c_char>) |state, _| {
        let name = name.text()?.to_str().map_err(|_| code::NOT_FOUND)?;
        function.set(state.function(module, name)?)
    }
}

entry! {
    Context fn cuModuleGetGlobal_v2(
        address: Out<u64>,
        bytes: Out<usize>,
        module: u64,
        name: In<c_char>,
    ) |state, _| {
        let name = name.text()?.to_str().map_err(|_| code::NOT_FOUND)?;
        let program = &state.modules.get(&module).ok_or(code::INVALID_HANDLE)?.program;
        let index = program.module.variables.iter().position(|variable| variable.name == name);
        let index = index.ok_or(code::NOT_FOUND)?;
        address.set_if_wanted(program.variables[index]);
        bytes.set_if_wanted(program.module.variables[index].bytes.len());
        Ok(())
    }
}

entry! {
    Context fn cuFuncGetAttribute(value: Out<c_int>, attribute: u32, function: u64) |state, _| {
        let function = state.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        let (major, minor) = function.program.module.version;
        let device = &state.devices[function.device];
        value.set(match attribute {
            0 => function.max_threads() as c_int,
            1..=3 => 0, // shared, constant and local memory
            4 => (function.kernel().registers() as c_int).min(255),
            5 => (10 * major + minor) as c_int,
            6 => (10 * device.major + device.minor) as c_int,
            7 => 0,
            8..=16 => function.attributes.get(&attribute).copied().unwrap_or(0),
            _ => return Err(code::INVALID_VALUE),
        })
    }
}

entry! {
    Context fn cuFuncSetAttribute(function: u64, attribute: u32, value: c_int) |state, _| {
        let function = state.functions.get_mut(&function).ok_or(code::INVALID_HANDLE)?;
        if !(8..=16).contains(&attribute) {
            return Err(code::INVALID_VALUE);
        }
        function.attributes.insert(attribute, value);
        Ok(())
    }
}

entry! {
    Context fn cuFuncSetCacheConfig(function: u64, _config: u32) |state, _| {
        state.functions.get(&function).map(|_| ()).ok_or(code::INVALID_HANDLE)
    }
}

fn blocks_at_once(state: &State, function: u64, block: c_int) -> Result<c_int, Code> {
    let function = state.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
    let threads = u32::try_from(block)
        .ok()
        .filter(|threads| *threads > 0)
        .ok_or(code::INVALID_VALUE)?;
    if threads > function.max_threads() {
        return Ok(0);
    }
    Ok((2048 / threads.next_multiple_of(32)).min(32) as c_int)
}

entry! {
    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: u64,
        block: c_int,
        _shared: usize,
    ) |state, _| blocks.set(blocks_at_once(state, function, block)?)
}

entry! {
    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>,
        function: u64,
        block: c_int,
        _shared: usize,
        _flags: u32,
    ) |state, _| blocks.set(blocks_at_once(state, function, block)?)
}

/// The array of addresses in `kernelParams`.
#[derive(Debug)]
struct Addresses(In<*mut c_void>);

impl ParamReader for Addresses {
    fn read(&self, index: usize, into: &mut [u8]) -> Result<(), Code> {
        let address = In(self.0.at(index).get()?.cast_const().cast::<u8>());
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = address.at(index).get()?;
        }
        Ok(())
    }
}

const EXTRA_END: usize = 0;
const EXTRA_POINTER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// Returns the buffer in `extra`: pairs of a key and a value, up to a final zero.
fn buffer(extra: &In<usize>) -> Result<Vec<u8>, Code> {
    let (mut pointer, mut size) = (In(std::ptr::null::<u8>()), 0);
    for index in (0..8).step_by(2) {
        let key = extra.at(index).get()?;
        if key == EXTRA_END {
            return (0..size).map(|index| pointer.at(index).get()).collect();
        }
        let value = extra.at(index + 1).get()?;
        match key {
            EXTRA_POINTER => pointer = In(value as *const u8),
            EXTRA_SIZE => size = In(value as *const usize).get()?,
            _ => return Err(code::INVALID_VALUE),
        }
    }
    Err(code::INVALID_VALUE)
}

/// The grid, block, shared memory and stream of a launch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    attributes: u64,
    attribute_count: u32,
}

fn launch(
    state: &mut State,
    device: usize,
    config: Config,
    function: u64,
    params: In<*mut c_void>,
    extra: &In<usize>,
) -> Result<(), Code> {
    let key = state.stream_key(config.stream, device)?;
    let Config {
        grid,
        block,
        shared,
        ..
    } = config;
    if !extra.is_null() {
        if !params.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let bytes = buffer(extra)?;
        return state.launch(function, grid, block, shared, key, Params::Buffer(&bytes));
    }
    state.launch(
        function,
        grid,
        block,
        shared,
        key,
        Params::Each(&Addresses(params)),
    )
}

entry! {
    Context fn cuLaunchKernel(
        function: u64,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: u64,
        params: In<*mut c_void>,
        extra: In<usize>,
    ) |state, device| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = Config { grid, block, shared, stream, attributes: 0, attribute_count: 0 };
        launch(state, device, config, function, params, &extra)
    }
}

entry! {
    /// Attributes are not supported, because priorities of launches would change nothing.
    Context fn cuLaunchKernelEx(
        config: In<Config>,
        function: u64,
        params: In<*mut c_void>,
        extra: In<usize>,
    ) |state, device| {
        let config = config.get()?;
        if config.attribute_count > 0 {
            return Err(code::NOT_SUPPORTED);
        }
        launch(state, device, config, function, params, &extra)
    }
}
