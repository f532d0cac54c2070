//! The speed of hashing in the GPU: one large shard, and many small ones in one call.

use vram_residency::device::{Cuda, CudaBuilder};
use vram_residency::error::VerifyError;
use vram_residency::shard::Verified;
use vram_residency::{Shard, Shared};

use crate::machine::{Machine, smi_during};
use crate::table::{Samples, Table};
use crate::world::{Outcome, World, seconds};

/// The required speed on an H100, in GB/s; the goal is 725.
const BOUND: f64 = 600.0;

/// The size of a large shard, in bytes.
const LARGE: u64 = 8 << 30;

const GB: f64 = 1e9;

/// Verifies one large shard repeatedly. Returns GB/s.
pub fn whole(
    table: &mut Table,
    world: &World,
    machine: &Machine,
    load_rate: f64,
    default_checks: bool,
) -> Outcome<f64> {
    let manager = world.manager(|builder| match default_checks {
        true => builder,
        false => builder.spot_checks(0),
    })?;
    // Leave some memory to others, and let loading take at most a fifth of the remaining time.
    let room = manager.capacity().available / 8 * 7;
    let in_time = (load_rate * table.left().as_secs_f64() / 5.0) as u64;
    let len = world.sizes.whole.min(room).min(in_time.max(1 << 20)) >> 20 << 20;
    let sealed = world.sealed(&manager, "whole", len)?;
    let mut kept = Some(sealed.verify()?);
    let mut again = || -> Outcome<f64> {
        let shard = kept.take().ok_or("the shard is gone")?;
        let (seconds, shard) = seconds(|| Ok(shard.reverify()?))?;
        kept = Some(shard);
        Ok(len as f64 / seconds / GB)
    };
    again()?;
    let samples = (0..world.sizes.samples).map(|_| again());
    let samples = Samples::new(samples.collect::<Outcome<_>>()?);
    let mut failed = None;
    let (told, clock) = smi_during(|| failed = again().err().or(failed.take()));
    if let Some(error) = failed {
        return Err(error);
    }
    println!("nvidia-smi, while hashing: {told}");
    let pipe = machine.integer_pipe(clock) / GB;
    let figure = format!(
        "digest of {} MiB, spot checks {}",
        len >> 20,
        if default_checks { "as default" } else { "off" }
    );
    let mut limit = format!(
        "integer pipe at {}: {pipe:.0} GB/s, of which {:.0} %; bound and aim (725) are those of an H100",
        clock.map_or("the highest clock".into(), |clock| format!("{clock} MHz")),
        100.0 * samples.median() / pipe
    );
    if len < LARGE {
        limit.push_str("; SMALLER than 8 GiB, which this GPU, or the time, has no room for");
    }
    table.judge(&figure, "GB/s", &samples, BOUND, &limit);
    let shard = kept.ok_or("the shard is gone")?;
    a_flipped_bit_is_found(table, shard, len)?;
    Ok(samples.median())
}

/// Checks that a flipped bit is found: without that, speed is worthless.
fn a_flipped_bit_is_found(
    table: &mut Table,
    shard: Shard<Verified, Cuda>,
    len: u64,
) -> Outcome<()> {
    const WINDOW: u64 = 524_288;
    let offset = len / 3 * 2 + 1;
    let window = offset / WINDOW;
    shard.dangerous_flip_bit(offset, 6)?;
    match shard.reverify() {
        Err(VerifyError::Broken(broken))
            if broken.incident().damaged_windows() == [window..window + 1] => {}
        Ok(_) => table.wrong(format!("a flipped bit at {offset} was missed")),
        Err(error) => table.wrong(format!("a flipped bit in window {window} gave {error:?}")),
    }
    Ok(())
}

/// Measures many small shards, verified in one call and checked in one call. `whole` is in GB/s.
pub fn many(table: &mut Table, world: &World, whole: f64) -> Outcome<()> {
    let bytes = (world.sizes.shards * world.sizes.shard) as f64;
    let of = format!(
        "{} shards of {} KiB",
        world.sizes.shards,
        world.sizes.shard >> 10
    );
    let limit = format!("half of the rate of one large shard, {whole:.4} GB/s");
    let mut rates = Vec::new();
    let mut last = Vec::new();
    for _ in 0..world.sizes.samples.min(4) {
        drop(std::mem::take(&mut last));
        let (rate, verified) = verified_together(world, |builder| builder.spot_checks(0))?;
        rates.push(bytes / rate / GB);
        last = verified;
    }
    let figure = format!("{of}, `Shard::verify_all`, spot checks off");
    table.judge(&figure, "GB/s", &Samples::new(rates), whole / 2.0, &limit);
    let rates = checked_together(world, last)?;
    let figure = format!("{of}, `Shared::check_all`, spot checks off");
    table.judge(&figure, "GB/s", &rates, whole / 2.0, &limit);
    let (_, verified) = verified_together(world, |builder| builder)?;
    let rates = checked_together(world, verified)?;
    let figure = format!("{of}, `Shared::check_all`, spot checks as default");
    table.tell(
        &figure,
        "GB/s",
        &rates,
        "each byte is copied back and hashed by the CPU, too",
    );
    Ok(())
}

fn verified_together(
    world: &World,
    options: impl FnOnce(CudaBuilder) -> CudaBuilder,
) -> Outcome<(f64, Vec<Shard<Verified, Cuda>>)> {
    let manager = world.manager(options)?;
    let len = world.sizes.shard as u64;
    let sealed =
        (0..world.sizes.shards).map(|index| world.sealed(&manager, &format!("s-{index}"), len));
    let sealed = sealed.collect::<Outcome<Vec<_>>>()?;
    let (seconds, verified) = seconds(|| Ok(Shard::verify_all(sealed)))?;
    let verified = verified.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((seconds, verified))
}

fn checked_together(world: &World, verified: Vec<Shard<Verified, Cuda>>) -> Outcome<Samples> {
    let shared: Vec<Shared<Cuda>> = verified.into_iter().map(Shard::share).collect();
    let all: Vec<&Shared<Cuda>> = shared.iter().collect();
    let bytes = (all.len() * world.sizes.shard) as f64;
    let mut rates = Vec::new();
    for round in 0..=world.sizes.samples {
        let (seconds, outcomes) = seconds(|| Ok(Shared::check_all(&all)))?;
        outcomes.into_iter().collect::<Result<Vec<()>, _>>()?;
        if round > 0 {
            rates.push(bytes / seconds / GB);
        }
    }
    Ok(Samples::new(rates))
}
