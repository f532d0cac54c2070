//! The cost of checks for a model: a kernel limited only by memory, alone and beside checks in
//! turns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vram_residency::Shared;
use vram_residency::device::{Cuda, Share};

use crate::kernels::{Triad, user};
use crate::machine::Machine;
use crate::table::{Samples, Table};
use crate::world::{Outcome, World};

const BOUND: f64 = 0.88;

pub fn measure(table: &mut Table, world: &World, machine: &Machine) -> Outcome<()> {
    let stream = user();
    let (free, _) = stream.context().mem_get_info()?;
    let array = world.sizes.array.min(free / 8) >> 12 << 12;
    let triad = Triad::new(&stream, array)?;
    let alone = |launches: u32| -> Outcome<f64> {
        let started = Instant::now();
        for _ in 0..launches {
            triad.launch()?;
        }
        stream.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / f64::from(launches))
    };
    alone(1)?;
    let launches = (world.sizes.turn / alone(3)?).clamp(1.0, 100_000.0) as u32;
    let mut rates = Vec::new();
    for (name, share) in [
        ("a tenth of the GPU", Share::percent(10)),
        ("all of the GPU", Some(Share::ALL)),
    ] {
        let share = share.ok_or("no such share")?;
        let manager = world.manager(|builder| builder.share(share))?;
        let name = match manager.device().multiprocessors() {
            Some(held_to) => format!("{name} (held to {held_to} multiprocessors)"),
            None => format!("{name} (spread over all multiprocessors)"),
        };
        let len = world.sizes.part as u64;
        let shared = world.sealed(&manager, "beside", len)?.verify()?.share();
        let (mut kept, mut checked) = (Vec::new(), Vec::new());
        let mut before = alone(launches)?;
        for _ in 0..world.sizes.samples {
            let (beside, check_rate) = beside_checks(&shared, || alone(launches))?;
            let after = alone(launches)?;
            kept.push((before + after) / 2.0 / beside);
            checked.push(check_rate / 1e9);
            rates.push(triad.traffic() as f64 / after / 1e9);
            before = after;
        }
        let (kept, checked) = (Samples::new(kept), Samples::new(checked));
        let figure = format!("throughput kept by a triad beside `Shared::check` on {name}");
        let limit = format!("alone, before and after; {launches} launches a turn");
        match share {
            Share::ALL => table.tell(&figure, "of it", &kept, &limit),
            _ => table.judge(&figure, "of it", &kept, BOUND, &limit),
        }
        table.tell(&format!("those checks, on {name}"), "GB/s", &checked, "-");
    }
    if !triad.is_right()? {
        table.wrong("the triad beside checks has computed something else".into());
    }
    let limit = match machine.memory() {
        Some(memory) => format!("memory by clock and width: {:.0} GB/s", memory / 1e9),
        None => "the driver does not tell the memory's bandwidth".into(),
    };
    table.tell("the triad alone", "GB/s", &Samples::new(rates), &limit);
    Ok(())
}

/// Runs checks without a pause during `work`, with at least one begun before it. Returns the result
/// of `work`, and the checked bytes per second.
fn beside_checks(
    shared: &Shared<Cuda>,
    work: impl FnOnce() -> Outcome<f64>,
) -> Outcome<(f64, f64)> {
    let (begun, stop, checks) = (
        AtomicBool::new(false),
        AtomicBool::new(false),
        AtomicU64::new(0),
    );
    std::thread::scope(|scope| {
        let checker = scope.spawn(|| {
            let started = Instant::now();
            while !stop.load(Ordering::Acquire) {
                begun.store(true, Ordering::Release);
                shared.check().map_err(|error| format!("{error:?}"))?;
                checks.fetch_add(1, Ordering::AcqRel);
            }
            Ok::<_, String>(started.elapsed().as_secs_f64())
        });
        while !begun.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(50));
        }
        let worked = work();
        stop.store(true, Ordering::Release);
        let seconds = checker.join().map_err(|_| "the checker panicked")??;
        let checked = checks.load(Ordering::Acquire) * shared.len();
        Ok((worked?, checked as f64 / seconds))
    })
}
