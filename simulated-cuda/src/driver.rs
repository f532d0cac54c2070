//! The driver itself: one state for the process, behind one lock. Every entry point holds the lock
//! for the time of its call. Tests call the driver as C, as an application does, and never as Rust.

mod block;
mod capture;
mod code;
mod context;
mod copy;
mod entry;
mod event;
mod execute;
mod exports;
mod fault;
mod graph;
mod green;
mod memory;
mod module;
mod pointer;
mod reservation;
mod state;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use code::Code;
use state::State;

static STATE: Mutex<State> = Mutex::new(State::new());

/// The process that initialised the driver; 0 before.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Returns whether this process is a fork of the process that initialised the driver. CUDA does not
/// work there.
fn is_fork() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != process::id()
}

/// Makes this process the owner of the driver. Returns `NOT_INITIALIZED` in a fork of the owner.
fn own() -> Result<(), Code> {
    let first = OWNER.compare_exchange(0, process::id(), Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err() && is_fork() {
        return Err(code::NOT_INITIALIZED);
    }
    Ok(())
}

/// Locks the state. A panic under the lock has been reported, and the state it left is the best
/// available.
fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The requirement of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// `cuInit`.
    Init,
    /// A current context that is not lost.
    Context,
}

/// Serves a call: counts it, answers with an injected fault, and checks its requirement. No panic
/// crosses the boundary.
fn call(
    name: &'static str,
    needs: Needs,
    body: impl FnOnce(&mut State, usize) -> Result<(), Code>,
) -> Code {
    if context::in_callback() {
        eprintln!("simulated-cuda: {name} was called by a host function, which CUDA forbids");
        return code::NOT_PERMITTED;
    }
    if needs != Needs::Nothing && is_fork() {
        // Checked before the lock, which another thread may have held during the fork.
        return code::NOT_INITIALIZED;
    }
    let served = catch_unwind(AssertUnwindSafe(|| serve(name, needs, body)));
    match served {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => {
            eprintln!("simulated-cuda: {name} panicked, which is a mistake in the simulation");
            code::UNKNOWN
        }
    }
}

fn serve(
    name: &'static str,
    needs: Needs,
    body: impl FnOnce(&mut State, usize) -> Result<(), Code>,
) -> Result<(), Code> {
    let mut state = lock();
    state.count_call(name);
    if let Some(fault) = state.faults.strike(name) {
        if fault.sticky {
            let device = context::current(&state).unwrap_or(0);
            state.lose(device, fault.code);
        }
        return Err(fault.code);
    }
    if needs != Needs::Nothing && !state.initialised {
        return Err(code::NOT_INITIALIZED);
    }
    let mut device = 0;
    if needs == Needs::Context {
        device = context::current(&state).ok_or(code::INVALID_CONTEXT)?;
        state.check(device)?;
    }
    body(&mut state, device)
}
