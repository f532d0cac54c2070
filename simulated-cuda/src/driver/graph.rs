//! Graphs: recorded captures, which can be executed repeatedly.

use std::sync::Arc;

use super::code::{self, Code};
use super::execute::Work;
use super::state::State;

/// A graph, or one that is ready to be launched. Its addresses are those of the capture; execution
/// checks whether they are still mapped.
#[derive(Clone, Debug)]
pub struct Graph {
    pub works: Arc<Vec<Work>>,
}

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const ALL_FLAGS: u64 = 15;

impl State {
    pub fn instantiate(&mut self, graph: u64, flags: u64) -> Result<u64, Code> {
        let graph = self
            .graphs
            .get(&graph)
            .cloned()
            .ok_or(code::INVALID_VALUE)?;
        let contradiction = AUTO_FREE_ON_LAUNCH | DEVICE_LAUNCH;
        if flags & !ALL_FLAGS != 0 || flags & contradiction == contradiction {
            return Err(code::INVALID_VALUE);
        }
        let handle = self.handle();
        self.executable_graphs.insert(handle, graph);
        Ok(handle)
    }

    pub fn launch_graph(&mut self, graph: u64, key: u64) -> Result<(), Code> {
        let works = self
            .executable_graphs
            .get(&graph)
            .ok_or(code::INVALID_VALUE)?
            .works
            .clone();
        self.enqueue(key, Work::Graph { works }).map(|_| ())
    }
}
