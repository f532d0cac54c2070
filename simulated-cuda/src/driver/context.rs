//! Primary contexts, one for each device, and the state of a thread: its current contexts, and its
//! capture mode.
//!
//! Only primary contexts can be created.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::code::{self, Code};
use super::state::State;

/// The handle of the first context; the handles of the next devices follow in steps of 16.
const FIRST: u64 = 0x0c0d_e000_0000;

/// A device's primary context.
#[derive(Debug)]
pub struct Context {
    pub retained: u32,
    pub flags: u32,
    /// The error that lost the context. A lost context stays lost for the process.
    pub lost: Option<Code>,
    pub limits: BTreeMap<u32, usize>,
}

impl Context {
    pub fn new() -> Self {
        Self {
            retained: 0,
            flags: 0,
            lost: None,
            limits: BTreeMap::new(),
        }
    }
}

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
    static THREAD: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// Returns the number of this thread.
pub fn thread() -> u64 {
    THREAD.with(|thread| *thread)
}

/// Returns this thread's capture mode: global, thread-local or relaxed.
pub fn capture_mode() -> u32 {
    CAPTURE_MODE.get()
}

pub fn exchange_capture_mode(mode: u32) -> u32 {
    CAPTURE_MODE.replace(mode)
}

/// Returns whether this thread is executing a host function of a stream.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs a host function, from which all calls into the driver fail.
pub fn callback(body: impl FnOnce()) {
    IN_CALLBACK.set(true);
    body();
    IN_CALLBACK.set(false);
}

pub fn handle(device: usize) -> u64 {
    FIRST + 16 * device as u64
}

/// Returns the device whose primary context has this handle.
pub fn device_of(state: &State, handle: u64) -> Option<usize> {
    let offset = handle.checked_sub(FIRST)?;
    let device = usize::try_from(offset / 16).ok()?;
    (offset.is_multiple_of(16) && device < state.contexts.len()).then_some(device)
}

/// Returns the handle of the current context, which may be none or a destroyed one.
pub fn current_handle() -> Option<u64> {
    // A thread that is ending may have lost its stack already, and still drop values that call the
    // driver.
    STACK
        .try_with(|stack| stack.borrow().last().copied())
        .ok()
        .flatten()
}

/// Returns the device of the current context, if the context is alive.
pub fn current(state: &State) -> Option<usize> {
    let device = device_of(state, current_handle()?)?;
    (state.contexts[device].retained > 0).then_some(device)
}

/// Replaces the top of the thread's stack; 0 removes it.
pub fn set_current(handle: u64) {
    pop();
    if handle != 0 {
        push(handle);
    }
}

pub fn push(handle: u64) {
    let _ = STACK.try_with(|stack| stack.borrow_mut().push(handle));
}

pub fn pop() -> Option<u64> {
    STACK
        .try_with(|stack| stack.borrow_mut().pop())
        .ok()
        .flatten()
}

impl State {
    /// Returns the error that lost the device's context, if it is lost.
    pub fn check(&self, device: usize) -> Result<(), Code> {
        match self.contexts.get(device).and_then(|context| context.lost) {
            Some(code) => Err(code),
            None => Ok(()),
        }
    }

    /// Loses the context: from now on, every call on it returns the code.
    pub fn lose(&mut self, device: usize, code: Code) {
        if let Some(context) = self.contexts.get_mut(device) {
            context.lost.get_or_insert(code);
        }
    }

    pub fn retain(&mut self, device: usize) -> Result<u64, Code> {
        self.check(device)?;
        let context = self.contexts.get_mut(device).ok_or(code::INVALID_DEVICE)?;
        context.retained += 1;
        Ok(handle(device))
    }

    /// Releases the context. The last release destroys all its objects.
    pub fn release(&mut self, device: usize) -> Result<(), Code> {
        let context = self.contexts.get_mut(device).ok_or(code::INVALID_DEVICE)?;
        context.retained = context
            .retained
            .checked_sub(1)
            .ok_or(code::INVALID_CONTEXT)?;
        if context.retained == 0 {
            self.clear(device);
        }
        self.check(device)
    }

    /// Destroys the objects of a context, after its work is done.
    pub fn clear(&mut self, device: usize) {
        self.run_all(device);
        self.streams.retain(|_, stream| stream.device != device);
        self.events.retain(|_, event| event.device != device);
        let streams = &self.streams;
        self.captures
            .retain(|_, capture| streams.contains_key(&capture.origin));
        self.modules.retain(|_, module| module.device != device);
        let modules = &self.modules;
        self.functions
            .retain(|_, function| modules.contains_key(&function.module));
        self.memory.clear(device);
        self.contexts[device].limits.clear();
        self.contexts[device].flags = 0;
    }
}
