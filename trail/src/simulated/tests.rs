//! A simulated process dies at any point, and its durable records must still be there.
//!
//! Suppose a call has returned with a receipt, and the machine loses its power in the middle of the
//! next write. Of the unsynced data, the medium has kept one sector, lost the next and filled a
//! third with garbage. A segment's name is there or not. The process starts again, runs into a full
//! disk, is killed, starts again. A step may forget a sync, sync twice where the first sync failed,
//! or name a file before it is whole. Then the record behind the receipt is gone, and that stays
//! unnoticed until it is needed. If the check is too strict, an honest trail is called forged. A
//! real disk shows neither: it keeps nearly everything, nearly always.
//!
//! So each seed runs a random process on a disk that may lose all unsynced data. The process makes
//! notes, critical records, flushes and closes. Calls fail, or hang while other threads record and
//! waiting callers give up. Kills and power cuts come at any call, and openings fail or die
//! themselves.
//!
//! After each end, the trail is checked, and compared with an independent list in the test: which
//! texts got which numbers, and which of them got a receipt. The writer runs on the test's own
//! thread, so a seed always does the same. An anchor watches: of its checkpoints, none may be gone
//! or different, neither for the check nor for the next opening. Another process copies signed
//! checkpoints out of void bytes: the trail has their root, or declares them void. Segments are as
//! small as possible, and sometimes the process comes back with another key.
//!
//! `VRAM_SIM_SEEDS` is how many seeds are tried (10 000), `VRAM_SIM_FROM` the first of them (0).

use std::path::Path;
use std::sync::Mutex;

use super::super::threads::Instant;
use model::acknowledged;
use world::{LONG, World};

mod model;
#[cfg(all(shuttle, feature = "shuttle"))]
mod threads;
mod world;

fn live(seed: u64, place: &Path) {
    let mut world = World::new(seed, place);
    let steps = 6 + world.random.below(20);
    for _ in 0..steps {
        world.step();
    }
    // The disk works again. Whatever happened, the trail goes on and closes.
    world.end();
    world.open();
    world.violation();
    world.close();
    world.check();
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
}

/// Returns a directory in memory, if there is such a file system.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    place.unwrap()
}

/// The process is killed at any call of an opening, and the machine ends at any call of the next
/// one. What the killed opening left must be on the medium before anything is built on it. Among
/// random ends, this pair is rare.
#[test]
#[cfg_attr(shuttle, ignore = "its threads are the system's")]
#[cfg_attr(miri, ignore = "hashes too much")]
fn what_a_killed_opening_left_is_durable_before_the_next_one_goes_on() {
    let place = place();
    for (killed, cut) in (0..20).flat_map(|killed| (0..20).map(move |cut| (killed, cut))) {
        for seed in 0..6 {
            println!("killed at call {killed}, cut at call {cut}, seed {seed}");
            let mut world = World::new(seed, place.path());
            world.open();
            world.violation();
            world.leave();
            world.disk.kill();
            world.disk.end_after(killed);
            world.open();
            world.leave();
            world.disk.kill();
            world.disk.end_after(cut);
            world.open();
            world.leave();
            world.disk.cut_power();
            world.check();
        }
    }
}

/// The disk takes nothing for so long that callers get no numbers any more. The process is then
/// killed, or the disk heals. No caller gets a number twice, and every attempt that reached the
/// trail is accounted for.
#[test]
#[cfg_attr(shuttle, ignore = "its threads are the system's")]
#[cfg_attr(miri, ignore = "hashes too much")]
fn on_a_disk_that_takes_nothing_numbers_end_below_the_durable_bound() {
    let place = place();
    for heals in [false, true] {
        let mut world = World::new(1, place.path());
        world.open();
        world.violation();
        world.disk.fail(1000);
        for _ in 0..60 {
            (0..10).for_each(|_| world.note());
            world.violation();
            world.process.as_mut().unwrap().writer.tick();
        }
        let model = world.model();
        let told = *model.told.last_key_value().unwrap().0;
        assert!(model.unnumbered > 500, "{}", model.unnumbered);
        // A queue of 16, with 8 places for critical records, three times.
        assert!((40..72 + 24).contains(&told), "{told}");
        let unnumbered = model.unnumbered;
        drop(model);
        if heals {
            world.disk.fail(0);
            let process = world.process.as_mut().unwrap();
            process.writer.drain(Instant::now() + LONG);
            assert!(process.shared.queue.hurry().is_none(), "all is written");
            world.note();
            assert_eq!(
                world.model().unnumbered,
                unnumbered,
                "there are numbers again"
            );
            world.close();
            let records = acknowledged(&world.disk.contents(), u64::MAX);
            let lost = records.iter().filter(|r| r["event"] == "RecordsLost");
            let lost: u64 = lost.filter_map(|lost| lost["unnumbered"].as_u64()).sum();
            let standing = unnumbered - lost;
            assert!(standing <= 1, "{lost} of {unnumbered}");
        } else {
            world.leave();
            world.disk.kill();
        }
        world.disk.fail(0);
        world.open();
        world.violation();
        world.close();
        world.check();
    }
}

#[test]
#[cfg_attr(shuttle, ignore = "its threads are the system's")]
#[cfg_attr(miri, ignore = "hashes too much")]
fn what_has_a_receipt_survives_whatever_a_disk_may_do() {
    let from = number("VRAM_SIM_FROM", 0);
    let seeds = number("VRAM_SIM_SEEDS", 10_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let failed = &failed;
            scope.spawn(move || {
                let place = place();
                for seed in (from + thread..from + seeds).step_by(threads as usize) {
                    let run = std::panic::AssertUnwindSafe(|| live(seed, place.path()));
                    if std::panic::catch_unwind(run).is_err() {
                        println!("failed: VRAM_SIM_FROM={seed} VRAM_SIM_SEEDS=1");
                        failed.lock().unwrap().push(seed);
                    }
                    if failed.lock().unwrap().len() >= 5 {
                        return;
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}
