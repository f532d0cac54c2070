//! Streams, events, captures and graphs.

use std::ffi::{c_int, c_void};

use super::{In, Out, entry};
use crate::driver::code::{self, Code};
use crate::driver::context;
use crate::driver::execute::Work;
use crate::driver::state::State;

entry! {
    Context fn cuStreamCreate(stream: Out<u64>, flags: u32) |state, device| {
        stream.set(state.create_stream(device, flags, 0)?)
    }
}

entry! {
    Context fn cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: c_int) |state, device| {
        stream.set(state.create_stream(device, flags, priority)?)
    }
}

entry! {
    Context fn cuStreamGetPriority(stream: u64, priority: Out<c_int>) |state, device| {
        let key = state.stream_key(stream, device)?;
        priority.set(state.streams[&key].priority)
    }
}

entry! {
    Context fn cuStreamGetFlags(stream: u64, flags: Out<u32>) |state, device| {
        let key = state.stream_key(stream, device)?;
        flags.set(state.streams[&key].flags)
    }
}

entry! {
    Context fn cuStreamGetCtx(stream: u64, handle: Out<u64>) |state, device| {
        let key = state.stream_key(stream, device)?;
        handle.set(context::handle(state.streams[&key].device))
    }
}

entry! {
    /// Returns immediately; the stream's work is still executed.
    Context fn cuStreamDestroy_v2(stream: u64) |state, _| {
        if !state.streams.get(&stream).is_some_and(|stream| stream.is_users()) {
            return Err(code::INVALID_HANDLE);
        }
        state.abandon(stream);
        if let Some(found) = state.streams.get_mut(&stream) {
            found.destroyed = true;
        }
        state.bury(stream);
        Ok(())
    }
}

entry! {
    Context fn cuStreamSynchronize(stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.check_not_captured(key)?;
        state.check_unsafe_call()?;
        state.run_stream(key)
    }
}

entry! {
    /// Executes one piece of work at each query, so that polling makes progress.
    Context fn cuStreamQuery(stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.check_not_captured(key)?;
        state.check_unsafe_call()?;
        let place = (key, state.streams[&key].last);
        poll(state, place)
    }
}

/// Returns whether a place is reached, and makes a little progress if not.
fn poll(state: &mut State, place: (u64, u64)) -> Result<(), Code> {
    if state.is_done(place) {
        return Ok(());
    }
    let device = state.streams.get(&place.0).map(|stream| stream.device);
    state.advance(place, 1);
    device.map_or(Ok(()), |device| state.check(device))?;
    Err(code::NOT_READY)
}

entry! {
    Context fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32) |state, device| {
        if flags > 1 {
            return Err(code::INVALID_VALUE);
        }
        let key = state.stream_key(stream, device)?;
        state.wait_event(key, event)
    }
}

entry! {
    Context fn cuLaunchHostFunc(
        stream: u64,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: u64,
    ) |state, device| {
        let function = function.ok_or(code::INVALID_VALUE)?;
        let key = state.stream_key(stream, device)?;
        state.enqueue(key, Work::HostFunction { function, data }).map(|_| ())
    }
}

const NOT_CAPTURING: u32 = 0;
const CAPTURING: u32 = 1;
const INVALIDATED: u32 = 2;

/// Returns the state of a stream's capture, and the capture's number. The query invalidates no
/// capture.
fn capture_of(state: &mut State, stream: u64, device: usize) -> Result<(u32, u64), Code> {
    let key = state.stream_key(stream, device)?;
    if !state.captures_beside_legacy(key).is_empty() {
        return Err(code::STREAM_CAPTURE_IMPLICIT);
    }
    let Some(id) = state.streams[&key].capture else {
        return Ok((NOT_CAPTURING, 0));
    };
    let invalidated = state
        .captures
        .get(&id)
        .is_none_or(|capture| capture.invalidated);
    Ok((if invalidated { INVALIDATED } else { CAPTURING }, id))
}

entry! {
    Context fn cuStreamIsCapturing(stream: u64, status: Out<u32>) |state, device| {
        status.set(capture_of(state, stream, device)?.0)
    }
}

entry! {
    /// Never returns the graph being built, nor its nodes.
    Context fn cuStreamGetCaptureInfo_v2(
        stream: u64,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<u64>,
        dependencies: Out<u64>,
        count: Out<usize>,
    ) |state, device| {
        let (found, number) = capture_of(state, stream, device)?;
        status.set(found)?;
        id.set_if_wanted(number);
        graph.set_if_wanted(0);
        dependencies.set_if_wanted(0);
        count.set_if_wanted(0);
        Ok(())
    }
}

entry! {
    Context fn cuStreamBeginCapture_v2(stream: u64, mode: u32) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.begin_capture(key, mode)
    }
}

entry! {
    Context fn cuStreamEndCapture(stream: u64, graph: Out<u64>) |state, device| {
        let key = state.stream_key(stream, device)?;
        graph.set(0)?;
        graph.set(state.end_capture(key)?)
    }
}

entry! {
    Nothing fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) |_, _| {
        let wanted = In(mode.0.cast_const()).get()?;
        if wanted > 2 {
            return Err(code::INVALID_VALUE);
        }
        mode.set(context::exchange_capture_mode(wanted))
    }
}

entry! {
    Context fn cuGraphInstantiateWithFlags(executable: Out<u64>, graph: u64, flags: u64) |state, _| {
        executable.set(state.instantiate(graph, flags)?)
    }
}

entry! {
    Context fn cuGraphUpload(executable: u64, stream: u64) |state, device| {
        state.stream_key(stream, device)?;
        state.executable_graphs.get(&executable).map(|_| ()).ok_or(code::INVALID_VALUE)
    }
}

entry! {
    Context fn cuGraphLaunch(executable: u64, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.launch_graph(executable, key)
    }
}

entry! {
    Init fn cuGraphDestroy(graph: u64) |state, _| {
        state.graphs.remove(&graph).map(|_| ()).ok_or(code::INVALID_VALUE)
    }
}

entry! {
    Init fn cuGraphExecDestroy(executable: u64) |state, _| {
        state.executable_graphs.remove(&executable).map(|_| ()).ok_or(code::INVALID_VALUE)
    }
}

entry! {
    Context fn cuEventCreate(event: Out<u64>, flags: u32) |state, device| {
        event.set(state.create_event(device, flags)?)
    }
}

entry! {
    Context fn cuEventRecord(event: u64, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.record_event(event, key)
    }
}

entry! {
    Context fn cuEventQuery(event: u64) |state, _| {
        let place = state.place_of(event)?;
        state.check_unsafe_call()?;
        place.map_or(Ok(()), |place| poll(state, place))
    }
}

entry! {
    Context fn cuEventSynchronize(event: u64) |state, _| {
        let place = state.place_of(event)?;
        state.check_unsafe_call()?;
        place.map_or(Ok(()), |place| state.run_to(place))
    }
}

entry! {
    Context fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) |state, _| {
        milliseconds.set(state.elapsed(start, end)?)
    }
}

entry! {
    Context fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) |state, _| {
        milliseconds.set(state.elapsed(start, end)?)
    }
}

entry! {
    Context fn cuEventDestroy_v2(event: u64) |state, _| {
        state.event(event)?;
        state.events.remove(&event);
        Ok(())
    }
}
