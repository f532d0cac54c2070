//! All figures of a GPU in one run.
//!
//! Run `cargo bench --features cuda --bench gpu`, or build it with `benches/gpu/pack.sh` for a
//! machine without Rust.
//!
//! The first number among the arguments limits the whole run, in seconds (default: 170). The table
//! lists missed bounds; the exit status reports only wrong results. Without a GPU the bench says so
//! and succeeds; with `VRAM_REQUIRE_GPU=1` it fails. `VRAM_SIMULATED_GPU=1` runs everything with
//! tiny sizes on the simulated driver, to test the bench: those figures mean nothing.

#[path = "../../tests/support/kernels.rs"]
mod kernels;
#[path = "../../tests/support/present.rs"]
mod present;

mod beside;
mod copying;
mod hashing;
mod machine;
mod table;
mod world;

use std::process::{Command, ExitCode};
use std::time::Duration;

use cudarc::driver::CudaContext;
use vram_residency::{ModelRef, Provenance};

use crate::machine::Machine;
use crate::table::Table;
use crate::world::{Outcome, World};

const SECONDS: u64 = 170;

/// The argument with which the process writes into a sealed shard, and succeeds if the write is
/// refused.
const WRITE: &str = "--write-into-a-sealed-shard";

fn main() -> ExitCode {
    present::or_end("benches/gpu");
    present::load_driver();
    if std::env::args().any(|argument| argument == WRITE) {
        return write_into_a_sealed_shard().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let mut table = Table::new(Duration::from_secs(seconds.unwrap_or(SECONDS)));
    let measured = measure(&mut table);
    table.noted("the bench", measured);
    let right = table.print();
    if present::is_simulated() {
        println!("SIMULATED: this tests the bench. None of these figures means anything.");
    }
    if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn measure(table: &mut Table) -> Outcome<()> {
    let world = World::new()?;
    let manager = world.manager(|builder| builder)?;
    let context = CudaContext::new(0)?;
    let machine = Machine::look(&context, manager.device().identity());
    drop(manager);
    let refused = Command::new(std::env::current_exe()?).arg(WRITE).status()?;
    if !refused.success() {
        table.wrong("a kernel has written into a sealed shard, or nobody could try".into());
    }
    let copied = copying::measure(table, &world);
    let rates = table.noted("copies", copied);
    let load = rates.as_ref().map_or(1e9, |rates| rates.load);
    let hashed = hashing::whole(table, &world, &machine, load, false);
    let whole = table.noted("a large shard", hashed);
    if let Some((rates, whole)) = rates.zip(whole) {
        copying::compare(table, &rates, whole);
    }
    if in_time(table, "a large shard with spot checks") {
        let hashed = hashing::whole(table, &world, &machine, load, true);
        table.noted("a large shard with spot checks", hashed);
    }
    if in_time(table, "many shards in one call") {
        let hashed = hashing::many(table, &world, whole.unwrap_or(0.0));
        table.noted("many shards in one call", hashed);
    }
    if in_time(table, "a kernel beside checks") {
        let kept = beside::measure(table, &world, &machine);
        table.noted("a kernel beside checks", kept);
    }
    drop(context);
    Ok(())
}

/// Returns whether there is time for a figure that takes at most about 30 s.
fn in_time(table: &mut Table, figure: &str) -> bool {
    let enough = table.left() > Duration::from_secs(30);
    if !enough {
        table.not_measured(figure, "the time is over");
    }
    enough
}

fn write_into_a_sealed_shard() -> Outcome<()> {
    let world = World::new()?;
    let manager = world.manager(|builder| builder)?;
    let mut shard = manager.allocate("sealed".parse()?, ModelRef::new("bench", 0, 1)?, 4096)?;
    shard.write_at(0, &[7; 4096])?;
    let shard = shard.seal(Provenance::UnpinnedFirstUse)?.verify()?;
    let stream = kernels::user();
    kernels::increment(&stream, kernels::address(shard.view()));
    match stream.synchronize() {
        Ok(()) => Err("it was written".into()),
        Err(_) => Ok(()),
    }
}
