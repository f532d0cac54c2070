//! Events: marks in a stream, and the times when they were reached.

use std::time::Instant;

use super::code::{self, Code};
use super::execute::Work;
use super::state::State;
use super::stream::Place;

pub const DISABLE_TIMING: u32 = 2;

#[derive(Debug)]
pub struct Event {
    pub device: usize,
    pub flags: u32,
    pub mark: Mark,
}

/// The place of an event's last recording.
#[derive(Clone, Debug)]
pub enum Mark {
    /// In a captured stream: the capture, and the work that the event stands for in it.
    Captured {
        capture: u64,
        reached: std::collections::BTreeMap<u64, u64>,
    },
    Never,
    /// In a stream. `stamp` identifies this recording.
    Recorded {
        place: Place,
        stamp: u64,
        when: Option<Instant>,
    },
}

impl State {
    pub fn create_event(&mut self, device: usize, flags: u32) -> Result<u64, Code> {
        if flags & !7 != 0 {
            return Err(code::INVALID_VALUE);
        }
        let handle = self.handle();
        self.events.insert(
            handle,
            Event {
                device,
                flags,
                mark: Mark::Never,
            },
        );
        Ok(handle)
    }

    pub fn event(&self, handle: u64) -> Result<&Event, Code> {
        self.events.get(&handle).ok_or(code::INVALID_HANDLE)
    }

    /// Marks the current end of a stream's work.
    pub fn record_event(&mut self, handle: u64, key: u64) -> Result<(), Code> {
        let event = self.event(handle)?;
        let (device, stream) = (event.device, &self.streams[&key]);
        if stream.device != device {
            return Err(code::INVALID_HANDLE);
        }
        let mark = if let Some(capture) = stream.capture {
            let reached = self
                .captures
                .get(&capture)
                .map(|capture| capture.reached_by(key));
            Mark::Captured {
                capture,
                reached: reached.ok_or(code::STREAM_CAPTURE_INVALIDATED)?,
            }
        } else {
            let stamp = self.number();
            let place = self.enqueue(
                key,
                Work::Record {
                    event: handle,
                    stamp,
                },
            )?;
            Mark::Recorded {
                place,
                stamp,
                when: None,
            }
        };
        if let Some(event) = self.events.get_mut(&handle) {
            event.mark = mark;
        }
        Ok(())
    }

    /// Sets an event as reached, unless it was recorded again with another stamp.
    pub fn recorded(&mut self, handle: u64, reached: u64) {
        if let Some(Event {
            mark: Mark::Recorded { stamp, when, .. },
            ..
        }) = self.events.get_mut(&handle)
            && *stamp == reached
        {
            *when = Some(Instant::now());
        }
    }

    /// Makes the stream wait for the event.
    pub fn wait_event(&mut self, key: u64, handle: u64) -> Result<(), Code> {
        let mark = self.event(handle)?.mark.clone();
        match (mark, self.streams[&key].capture) {
            (Mark::Captured { capture, reached }, _) => self.join_capture(key, capture, &reached),
            (Mark::Never, _) => Ok(()),
            (Mark::Recorded { .. }, Some(capture)) => {
                // A graph cannot wait for work outside of it.
                self.invalidate(capture);
                Err(code::STREAM_CAPTURE_ISOLATION)
            }
            (Mark::Recorded { place, .. }, None) => self
                .enqueue_after(key, Work::Nothing, vec![place])
                .map(|_| ()),
        }
    }

    /// Returns the place of the event's recording, or `None` if it was never recorded, which counts
    /// as done.
    pub fn place_of(&self, handle: u64) -> Result<Option<Place>, Code> {
        match &self.event(handle)?.mark {
            Mark::Captured { .. } => Err(code::CAPTURED_EVENT),
            Mark::Never => Ok(None),
            Mark::Recorded { place, .. } => Ok(Some(*place)),
        }
    }

    /// Returns the time between two events, in milliseconds.
    pub fn elapsed(&self, start: u64, end: u64) -> Result<f32, Code> {
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([start, end]) {
            let event = self.event(handle)?;
            match event.mark {
                Mark::Recorded { place, when, .. } if event.flags & DISABLE_TIMING == 0 => {
                    if !self.is_done(place) {
                        return Err(code::NOT_READY);
                    }
                    *time = when;
                }
                _ => return Err(code::INVALID_HANDLE),
            }
        }
        let [Some(start), Some(end)] = times else {
            return Err(code::INVALID_HANDLE);
        };
        let seconds = end.saturating_duration_since(start).as_secs_f32()
            - start.saturating_duration_since(end).as_secs_f32();
        Ok(seconds * 1000.0)
    }
}
