//! A simulated disk in memory that does to a trail what a real one may do, driven by a seed.
//!
//! It keeps two states: what processes see, and what is on the medium. A write, a new name, a
//! rename and a removal are visible at once. On the medium they are only after the sync that covers
//! them. A power cut keeps of unsynced data what the seed decides: a write whole, not at all,
//! shortened, or sector by sector (kept, zeros, garbage), and each change of a name or not. A
//! killed process loses nothing that it wrote, and syncs nothing either.
//!
//! Any call may fail, with or without effect. After a failed sync the bytes count as written back:
//! later syncs succeed and leave them where they are. Real kernels hardly ever show this in a test.
//!
//! Changes of names that a failed directory sync left behind are written by the next one: the
//! journal of a real file system does not go on after such an error. This module knows nothing of
//! trails except the names of segments.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use self::file::{OpenFile, Reader, file_id};
use self::random::Random;
use super::faults::Memory;
use super::storage::{
    Found, SegmentReader, Storage, is_unfinished, parse_segment_name, segment_name, unfinished_name,
};

mod file;
mod random;
#[cfg(all(shuttle, feature = "shuttle"))]
mod stage;
#[cfg(test)]
mod tests;

#[cfg(all(shuttle, feature = "shuttle"))]
pub use stage::{Stage, Staged};

/// The bytes that a medium writes as a whole.
const SECTOR: usize = 512;

type Action = Box<dyn FnMut() + Send>;

/// A handle on a disk. Clones act on the same one.
#[derive(Clone)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    /// Runs while a segment is written or synced, in place of other threads.
    meanwhile: Arc<Mutex<Option<Action>>>,
}

struct State {
    random: Random,
    files: Vec<FileState>,
    /// What processes see.
    names: BTreeMap<String, usize>,
    /// What is on the medium.
    durable_names: BTreeMap<String, usize>,
    /// The changes that lead from the medium's state to the visible one.
    changes: Vec<Change>,
    /// The number of calls in a thousand that fail.
    failing: u64,
    /// The part of the writer's memory in which a bit flips next.
    flip: Option<Memory>,
    /// The number of calls until the machine or the process ends.
    calls_left: Option<u64>,
    ended: bool,
}

#[derive(Default)]
struct FileState {
    /// What processes see.
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

struct Unsynced {
    offset: usize,
    bytes: Vec<u8>,
    /// A failed sync has marked the data as written back.
    clean: bool,
}

#[derive(Clone)]
enum Change {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

/// The result of a call.
#[derive(Clone, Copy)]
enum Fate {
    Done,
    /// The call returns an error. The flag is true if it takes effect first.
    Fails(Errno, bool),
    /// The process or the machine ends. The flag is true if the call takes effect first.
    Ends(bool),
}

impl Fate {
    fn answer(self) -> io::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Fails(error, _) => Err(error.into()),
            Self::Ends(_) => Err(Errno::IO.into()),
        }
    }
}

impl Disk {
    /// Returns whether a named segment holds these bytes on the medium.
    #[cfg(all(shuttle, feature = "shuttle"))]
    pub(crate) fn medium_holds(&self, bytes: &[u8]) -> bool {
        let state = self.state();
        let named = state.durable_names.iter();
        named
            .filter(|(name, _)| name.ends_with(".jsonl"))
            .any(|(_, &id)| {
                let durable = &state.files[id].durable;
                durable.windows(bytes.len()).any(|part| part == bytes)
            })
    }

    fn new(seed: u64) -> Self {
        let state = State {
            random: Random(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            failing: 0,
            flip: None,
            calls_left: None,
            ended: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            meanwhile: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes `per_mille` calls in a thousand fail from now on.
    fn fail(&self, per_mille: u64) {
        self.state().failing = per_mille;
    }

    /// Flips a bit in the writer's memory, once.
    fn flip(&self, memory: Memory) {
        self.state().flip = Some(memory);
    }

    /// Ends the process or the machine after `calls` further calls.
    fn end_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    /// Sets what other threads do while the writer is busy, or nothing for `None`.
    fn meanwhile(&self, action: Option<Action>) {
        *self.meanwhile.lock().unwrap() = action;
    }

    /// Ends the process. Its writes stay in the page cache, where the next process sees them.
    fn kill(&self) {
        let mut state = self.state();
        state.ended = false;
        state.calls_left = None;
        state.failing = 0;
        state.flip = None;
    }

    /// Cuts the machine's power and turns it on again.
    fn cut_power(&self) {
        self.kill();
        let state = &mut *self.state();
        let random = &mut state.random;
        let kept = [0, 500, 500, 1000][random.index(4)];
        for change in state.changes.drain(..) {
            if random.chance(kept) {
                change.apply(&mut state.durable_names);
            }
        }
        for file in &mut state.files {
            file.lose(random);
        }
        state.names.clone_from(&state.durable_names);
    }

    /// Returns the segments without a name as processes see them.
    fn unfinished_files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let files = state.names.iter().filter(|(name, _)| is_unfinished(name));
        let files = files.map(|(name, &id)| (name.clone(), state.files[id].cached.clone()));
        files.collect()
    }

    /// Returns the named segments as processes see them.
    fn contents(&self) -> BTreeMap<u64, Vec<u8>> {
        let state = self.state();
        let named = state.names.iter().filter_map(|(name, &id)| {
            let segment = parse_segment_name(name.as_ref())?;
            Some((segment, state.files[id].cached.clone()))
        });
        named.collect()
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        if self.ended {
            return Fate::Ends(false);
        }
        let after = self.random.chance(500);
        if let Some(left) = &mut self.calls_left {
            if *left == 0 {
                self.ended = true;
                return Fate::Ends(after);
            }
            *left -= 1;
        }
        if self.random.chance(self.failing) {
            let errors = [Errno::IO, Errno::NOSPC, Errno::INTR];
            return Fate::Fails(errors[self.random.index(3)], after);
        }
        Fate::Done
    }

    fn call(&mut self, work: impl FnOnce(&mut Self)) -> io::Result<()> {
        let fate = self.fate();
        if let Fate::Done | Fate::Fails(_, true) | Fate::Ends(true) = fate {
            work(self);
        }
        fate.answer()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn sync(&mut self, id: usize) -> io::Result<()> {
        let result = self.call(|state| {
            let file = &mut state.files[id];
            for write in file.unsynced.extract_if(.., |write| !write.clean) {
                put(&mut file.durable, write.offset, &write.bytes);
            }
        });
        if result.is_err() && !self.ended {
            for write in &mut self.files[id].unsynced {
                write.clean = true;
            }
        }
        result
    }

    /// Returns the temporary name of a file without a segment's name.
    fn unfinished(&self, id: usize) -> Option<String> {
        let mut names = self.names.iter();
        let found = names.find(|(name, other)| **other == id && is_unfinished(name));
        found.map(|(name, _)| name.clone())
    }

    fn id(&self, segment: u64) -> io::Result<usize> {
        let id = self.names.get(&segment_name(segment));
        id.copied().ok_or(Errno::NOENT.into())
    }
}

impl FileState {
    /// Loses or tears the data that is not durable.
    fn lose(&mut self, random: &mut Random) {
        for write in std::mem::take(&mut self.unsynced) {
            write.tear(&mut self.durable, random.fork());
        }
        self.cached.clone_from(&self.durable);
    }
}

impl Unsynced {
    /// Puts on the medium what a power cut leaves of this write.
    fn tear(&self, durable: &mut Vec<u8>, mut random: Random) {
        let length = self.bytes.len();
        match random.below(4) {
            0 => put(durable, self.offset, &self.bytes),
            1 => {}
            2 => {
                let length = random.index(length + 1);
                put(durable, self.offset, &self.bytes[..length]);
            }
            _ => {
                let mut at = 0;
                while at < length {
                    let end = length.min(at + SECTOR - (self.offset + at) % SECTOR);
                    let mut sector = self.bytes[at..end].to_vec();
                    match random.below(3) {
                        0 => {}
                        1 => sector.fill(0),
                        _ => sector.fill_with(|| random.next().to_le_bytes()[0]),
                    }
                    put(durable, self.offset + at, &sector);
                    at = end;
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Rename(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

fn put(durable: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if durable.len() < end {
        durable.resize(end, 0);
    }
    durable[offset..end].copy_from_slice(bytes);
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Storage for Disk {
    type File = OpenFile;

    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut state = self.state();
        state.call(|_| {})?;
        let names = state.names.keys();
        Ok(names
            .filter_map(|name| parse_segment_name(name.as_ref()))
            .collect())
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        let state = &mut *self.state();
        let id = state.id(segment)?;
        state.sync(id)?;
        // Data that counts as written back can be dropped from the cache. Behind a sync, nothing
        // else remains.
        state.files[id].lose(&mut state.random);
        Ok(())
    }

    fn read(&self, segment: u64) -> io::Result<Box<dyn Read>> {
        let mut state = self.state();
        state.call(|_| {})?;
        let bytes = state.files[state.id(segment)?].cached.clone();
        Ok(Box::new(Reader {
            random: state.random.fork(),
            failing: state.failing,
            bytes,
            at: 0,
        }))
    }

    fn reader(&self) -> io::Result<SegmentReader> {
        let disk = self.clone();
        Ok(Box::new(move |segment| disk.read(segment)))
    }

    fn create(&self, segment: u64) -> io::Result<OpenFile> {
        let mut state = self.state();
        let mut names = (0..).map(|others| unfinished_name(segment, others));
        let name = names.find(|name| !state.names.contains_key(name));
        let name = name.ok_or(Errno::EXIST)?;
        let id = state.files.len();
        state.call(|state| {
            state.files.push(FileState::default());
            state.change(Change::Link(name, id));
        })?;
        Ok(OpenFile {
            disk: self.clone(),
            id,
            was_short: false,
        })
    }

    fn publish(&self, segment: u64, file: &OpenFile) -> io::Result<()> {
        let mut state = self.state();
        let (to, id) = (segment_name(segment), file.id);
        let from = state.unfinished(id).expect("it has a name");
        // The worst place for an end is between a rename and its sync.
        if state.calls_left.is_some() && state.random.chance(400) {
            state.calls_left = Some(0);
        }
        state.call(|state| state.change(Change::Rename(from, to, id)))
    }

    fn find(&self, segment: u64) -> io::Result<Option<Found>> {
        let mut state = self.state();
        state.call(|_| {})?;
        let id = state.names.get(&segment_name(segment));
        Ok(id.map(|&id| Found {
            id: file_id(id),
            length: state.files[id].cached.len() as u64,
        }))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.state().call(|state| {
            for change in state.changes.drain(..) {
                change.apply(&mut state.durable_names);
            }
        })
    }

    fn discard(&self, _: u64, file: &OpenFile) -> io::Result<()> {
        let mut state = self.state();
        let names = state.names.iter().filter(|(_, id)| **id == file.id);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            state.call(|state| state.change(Change::Unlink(name)))?;
        }
        drop(state);
        self.sync_names()
    }

    fn unfinished(&self) -> io::Result<Vec<String>> {
        self.state().call(|_| {})?;
        Ok(self.unfinished_files().into_keys().collect())
    }

    fn read_unfinished(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.state().call(|_| {})?;
        let bytes = self.unfinished_files().remove(name).ok_or(Errno::NOENT)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        let mut state = self.state();
        let names: Vec<String> = state.names.keys().cloned().collect();
        for name in names.into_iter().filter(|name| is_unfinished(name)) {
            state.call(|state| state.change(Change::Unlink(name)))?;
        }
        Ok(())
    }

    fn flips(&self, memory: Memory) -> bool {
        self.state().flip.take_if(|flip| *flip == memory).is_some()
    }
}
