//! Streams: queues of work that is executed as late as CUDA allows, which is when a call waits for
//! it.
//!
//! Each piece of work lists its dependencies: earlier work of its stream, events, and the legacy
//! default stream. All other order is arbitrary.

use std::collections::VecDeque;

use super::code::{self, Code};
use super::context;
use super::execute::Work;
use super::state::State;

/// The second handle of the legacy default stream, besides 0.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// Keys of streams that `cuStreamCreate` did not make.
const LEGACY_KEY: u64 = 0x100;
const PER_THREAD_KEY: u64 = 0x1_0000;

const NON_BLOCKING: u32 = 1;

/// The lowest and the highest priority.
pub const PRIORITIES: (i32, i32) = (0, -5);

/// A place in a stream: all work up to this number.
pub type Place = (u64, u64);

#[derive(Debug)]
pub struct Stream {
    pub device: usize,
    pub flags: u32,
    pub priority: i32,
    pub queue: VecDeque<Task>,
    /// The number of the last queued work.
    pub last: u64,
    pub destroyed: bool,
    /// The capture that the stream takes part in.
    pub capture: Option<u64>,
    /// The green context that restricts the stream's launches.
    pub held_to: Option<u64>,
    legacy: bool,
    users: bool,
}

#[derive(Debug)]
pub struct Task {
    pub number: u64,
    /// The places that must be reached before.
    pub after: Vec<Place>,
    pub work: Work,
}

impl Stream {
    fn new(device: usize, flags: u32, priority: i32) -> Self {
        Self {
            device,
            flags,
            priority,
            queue: VecDeque::new(),
            last: 0,
            destroyed: false,
            capture: None,
            held_to: None,
            legacy: false,
            users: true,
        }
    }

    /// Returns whether `cuStreamCreate` made the stream, and it was not destroyed.
    pub fn is_users(&self) -> bool {
        self.users && !self.destroyed
    }

    /// Returns whether the stream and the legacy default stream wait for each other.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    pub fn is_legacy(&self) -> bool {
        self.legacy
    }
}

impl State {
    pub fn create_stream(&mut self, device: usize, flags: u32, priority: i32) -> Result<u64, Code> {
        if flags > NON_BLOCKING {
            return Err(code::INVALID_VALUE);
        }
        let handle = self.handle();
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        self.streams
            .insert(handle, Stream::new(device, flags, priority));
        Ok(handle)
    }

    /// Returns the key of the stream that an application names by this handle.
    pub fn stream_key(&mut self, handle: u64, device: usize) -> Result<u64, Code> {
        let key = match handle {
            0 | LEGACY => LEGACY_KEY + device as u64,
            PER_THREAD => PER_THREAD_KEY * context::thread() + device as u64,
            _ => {
                let stream = self.streams.get(&handle).filter(|stream| stream.is_users());
                return stream.map(|_| handle).ok_or(code::INVALID_HANDLE);
            }
        };
        self.streams.entry(key).or_insert_with(|| Stream {
            legacy: handle != PER_THREAD,
            users: false,
            ..Stream::new(device, 0, 0)
        });
        Ok(key)
    }

    /// Returns the key of the legacy default stream.
    pub fn legacy_stream(&mut self, device: usize) -> Result<u64, Code> {
        self.stream_key(0, device)
    }

    /// Queues work, or adds it to the graph of the stream's capture. Returns its place.
    pub fn enqueue(&mut self, key: u64, work: Work) -> Result<Place, Code> {
        self.enqueue_after(key, work, Vec::new())
    }

    /// Queues work that also waits for the places `after`.
    pub fn enqueue_after(
        &mut self,
        key: u64,
        work: Work,
        mut after: Vec<Place>,
    ) -> Result<Place, Code> {
        self.check_legacy(key)?;
        if self.streams[&key].capture.is_some() {
            return self.record(key, work).map(|()| (key, 0));
        }
        let stream = &self.streams[&key];
        let (device, legacy, blocking) = (stream.device, stream.legacy, stream.is_blocking());
        let barriers = self.streams.iter().filter(|(other, stream)| {
            let ordered = if legacy {
                stream.is_blocking()
            } else {
                blocking && stream.legacy
            };
            **other != key && ordered && stream.device == device && !stream.queue.is_empty()
        });
        after.extend(barriers.map(|(other, stream)| (*other, stream.last)));
        let number = self.number();
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.queue.push_back(Task {
                number,
                after,
                work,
            });
            stream.last = number;
        }
        Ok((key, number))
    }

    /// Returns whether all work up to a place is done.
    pub fn is_done(&self, (key, number): Place) -> bool {
        let front = self
            .streams
            .get(&key)
            .and_then(|stream| stream.queue.front());
        front.is_none_or(|task| task.number > number)
    }

    /// Executes work until a place is reached, or `limit` pieces are done.
    pub fn advance(&mut self, place: Place, mut limit: usize) {
        let mut wanted = vec![place];
        while let Some((key, number)) = wanted.last().copied()
            && limit > 0
        {
            if self.is_done((key, number)) {
                wanted.pop();
                continue;
            }
            let front = self
                .streams
                .get(&key)
                .and_then(|stream| stream.queue.front());
            let open =
                front.and_then(|task| task.after.iter().find(|place| !self.is_done(**place)));
            if let Some(open) = open.copied() {
                wanted.push(open);
                continue;
            }
            let stream = self.streams.get_mut(&key);
            let Some((task, device)) = stream.and_then(|s| Some((s.queue.pop_front()?, s.device)))
            else {
                return;
            };
            self.execute(device, task.work);
            limit -= 1;
            self.bury(key);
        }
    }

    /// Removes a destroyed stream once its work is done.
    pub fn bury(&mut self, key: u64) {
        if self
            .streams
            .get(&key)
            .is_some_and(|stream| stream.destroyed && stream.queue.is_empty())
        {
            self.streams.remove(&key);
        }
    }

    /// Executes all work of a stream. Returns the error that lost its context, if it is lost.
    pub fn run_stream(&mut self, key: u64) -> Result<(), Code> {
        let Some(stream) = self.streams.get(&key) else {
            return Err(code::INVALID_HANDLE);
        };
        let device = stream.device;
        self.advance((key, stream.last), usize::MAX);
        self.check(device)
    }

    /// Executes all work up to a place. Returns the error that lost the context, if it is lost.
    pub fn run_to(&mut self, place: Place) -> Result<(), Code> {
        let device = self.streams.get(&place.0).map(|stream| stream.device);
        self.advance(place, usize::MAX);
        device.map_or(Ok(()), |device| self.check(device))
    }

    /// Executes all work of a device, newest streams first.
    pub fn run_all(&mut self, device: usize) {
        let places: Vec<Place> = self
            .streams
            .iter()
            .rev()
            .filter(|(_, stream)| stream.device == device)
            .map(|(key, stream)| (*key, stream.last))
            .collect();
        for place in places {
            self.advance(place, usize::MAX);
        }
    }
}
