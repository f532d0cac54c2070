//! Stream capture: work becomes a graph instead of being executed, and some calls are forbidden
//! meanwhile.
//!
//! The graph keeps its work in the order of the calls, which satisfies every dependency. The only
//! thing tracked is whether streams that joined the capture were joined back into the first one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::code::{self, Code};
use super::context;
use super::execute::Work;
use super::graph::Graph;
use super::state::State;

/// The mode in which captures and calls of all threads disturb each other. In mode 1, thread-local,
/// only calls of the same thread do.
const GLOBAL: u32 = 0;
/// The mode in which no call is forbidden.
const RELAXED: u32 = 2;

#[derive(Debug)]
pub struct Capture {
    pub origin: u64,
    thread: u64,
    mode: u32,
    pub invalidated: bool,
    works: Vec<Work>,
    /// For each stream in the capture, the amount of each stream's work that comes before it.
    streams: BTreeMap<u64, BTreeMap<u64, u64>>,
}

impl Capture {
    /// Returns the work that an event recorded on this stream stands for.
    pub fn reached_by(&self, key: u64) -> BTreeMap<u64, u64> {
        self.streams.get(&key).cloned().unwrap_or_default()
    }
}

impl State {
    pub fn begin_capture(&mut self, key: u64, mode: u32) -> Result<(), Code> {
        if mode > RELAXED {
            return Err(code::INVALID_VALUE);
        }
        let stream = &self.streams[&key];
        if stream.is_legacy() {
            return Err(code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.capture.is_some() {
            return Err(code::ILLEGAL_STATE);
        }
        let id = self.handle();
        let streams = BTreeMap::from([(key, BTreeMap::from([(key, 0)]))]);
        let thread = context::thread();
        let capture = Capture {
            origin: key,
            thread,
            mode,
            invalidated: false,
            works: Vec::new(),
            streams,
        };
        self.captures.insert(id, capture);
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.capture = Some(id);
        }
        Ok(())
    }

    /// Ends the capture that began on this stream, and returns the graph's handle.
    pub fn end_capture(&mut self, key: u64) -> Result<u64, Code> {
        let id = self.streams[&key].capture.ok_or(code::ILLEGAL_STATE)?;
        let capture = self.captures.get(&id).ok_or(code::ILLEGAL_STATE)?;
        if capture.mode != RELAXED && capture.thread != context::thread() {
            return Err(code::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != key {
            self.invalidate(id);
            return Err(code::STREAM_CAPTURE_UNMATCHED);
        }
        let home = capture.reached_by(key);
        let joined = capture.streams.iter().all(|(other, reached)| {
            let made = reached.get(other).copied().unwrap_or(0);
            made == 0 || home.get(other).is_some_and(|seen| *seen >= made)
        });
        let Some(capture) = self.captures.remove(&id) else {
            return Err(code::ILLEGAL_STATE);
        };
        for stream in self
            .streams
            .values_mut()
            .filter(|stream| stream.capture == Some(id))
        {
            stream.capture = None;
        }
        if capture.invalidated {
            return Err(code::STREAM_CAPTURE_INVALIDATED);
        }
        if !joined {
            return Err(code::STREAM_CAPTURE_UNJOINED);
        }
        let handle = self.handle();
        self.graphs.insert(
            handle,
            Graph {
                works: Arc::new(capture.works),
            },
        );
        Ok(handle)
    }

    /// Adds work to the graph that a stream is captured into.
    pub fn record(&mut self, key: u64, work: Work) -> Result<(), Code> {
        let id = self.streams[&key].capture;
        let capture = id
            .and_then(|id| self.captures.get_mut(&id))
            .ok_or(code::ILLEGAL_STATE)?;
        if capture.invalidated {
            return Err(code::STREAM_CAPTURE_INVALIDATED);
        }
        capture.works.push(work);
        let number = capture.works.len() as u64;
        if let Some(reached) = capture.streams.get_mut(&key) {
            reached.insert(key, number);
        }
        Ok(())
    }

    /// Adds a stream to a capture, because it waits for an event inside the capture.
    pub fn join_capture(
        &mut self,
        key: u64,
        id: u64,
        event: &BTreeMap<u64, u64>,
    ) -> Result<(), Code> {
        match self.streams[&key].capture {
            Some(other) if other != id => {
                self.invalidate(id);
                self.invalidate(other);
                return Err(code::STREAM_CAPTURE_MERGE);
            }
            _ => {}
        }
        if self.streams[&key].is_legacy() {
            self.invalidate(id);
            return Err(code::STREAM_CAPTURE_IMPLICIT);
        }
        // Fails if the capture is over: then the event stands for nothing that a stream could wait
        // for.
        let capture = self.captures.get_mut(&id).ok_or(code::INVALID_VALUE)?;
        let reached = capture.streams.entry(key).or_default();
        for (stream, number) in event {
            let seen = reached.entry(*stream).or_insert(0);
            *seen = (*seen).max(*number);
        }
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.capture = Some(id);
        }
        Ok(())
    }

    /// Handles the destruction of a stream: ends a capture that began on it, and invalidates one
    /// that it joined.
    pub fn abandon(&mut self, key: u64) {
        let Some(id) = self.streams.get(&key).and_then(|stream| stream.capture) else {
            return;
        };
        self.invalidate(id);
        if self
            .captures
            .get(&id)
            .is_some_and(|capture| capture.origin == key)
        {
            self.captures.remove(&id);
            for stream in self
                .streams
                .values_mut()
                .filter(|stream| stream.capture == Some(id))
            {
                stream.capture = None;
            }
        }
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.capture = None;
        }
    }

    pub fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.invalidated = true;
        }
    }

    /// Refuses a call that might disturb a capture, and invalidates that capture.
    ///
    /// This concerns a capture of this thread, or a global one of another thread, unless this
    /// thread is in relaxed mode.
    pub fn check_unsafe_call(&mut self) -> Result<(), Code> {
        let (thread, mode) = (context::thread(), context::capture_mode());
        if mode == RELAXED {
            return Ok(());
        }
        let mut disturbed = false;
        for capture in self.captures.values_mut() {
            let own = capture.thread == thread && capture.mode != RELAXED;
            let foreign = capture.mode == GLOBAL && mode == GLOBAL;
            if own || foreign {
                capture.invalidated = true;
                disturbed = true;
            }
        }
        if disturbed {
            Err(code::STREAM_CAPTURE_UNSUPPORTED)
        } else {
            Ok(())
        }
    }

    /// Refuses to wait for a captured stream, because none of its work is executed.
    pub fn check_not_captured(&mut self, key: u64) -> Result<(), Code> {
        match self.streams.get(&key).and_then(|stream| stream.capture) {
            Some(id) => {
                self.invalidate(id);
                Err(code::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => self.check_legacy(key),
        }
    }

    /// Refuses to wait for a device with a captured stream.
    pub fn check_no_capture(&mut self, device: usize) -> Result<(), Code> {
        let captures: Vec<u64> = self
            .streams
            .values()
            .filter(|stream| stream.device == device)
            .filter_map(|stream| stream.capture)
            .collect();
        for id in &captures {
            self.invalidate(*id);
        }
        if captures.is_empty() {
            Ok(())
        } else {
            Err(code::STREAM_CAPTURE_UNSUPPORTED)
        }
    }

    /// Refuses the legacy default stream while it would have to wait for a captured stream.
    pub fn check_legacy(&mut self, key: u64) -> Result<(), Code> {
        let captures = self.captures_beside_legacy(key);
        for id in &captures {
            self.invalidate(*id);
        }
        if captures.is_empty() {
            Ok(())
        } else {
            Err(code::STREAM_CAPTURE_IMPLICIT)
        }
    }

    /// Returns the captures that the stream would have to wait for, if it is the legacy default
    /// stream.
    pub fn captures_beside_legacy(&self, key: u64) -> Vec<u64> {
        let Some(stream) = self.streams.get(&key).filter(|stream| stream.is_legacy()) else {
            return Vec::new();
        };
        let streams = self.streams.values();
        streams
            .filter(|other| other.device == stream.device && other.is_blocking())
            .filter_map(|stream| stream.capture)
            .collect()
    }
}
