//! The signals of a worker for its operators: metrics for Prometheus, and a hook.
//!
//! `cargo run --example monitoring` prints the exporter's page of a healthy worker. It prints the
//! page again after the disk was full for a while and a bit of the weights has flipped. The alerts
//! of `ops/alerts.yml` use these names. With `-- --late-exporter` the exporter is installed after
//! the trail was opened, which makes no difference.
//!
//! The feature `fault-injection` makes the faults; a real worker does not need it.

use std::error::Error;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::health::Degradation;
use vram_residency::{AuditTrail, Host, ModelRef, Provenance, TrailKey, VramManager, WorkerToken};

fn main() -> Result<(), Box<dyn Error>> {
    let late = std::env::args()
        .nth(1)
        .is_some_and(|arg| arg == "--late-exporter");
    let place = tempfile::tempdir()?;
    let disk = StorageFaults::dangerous_new();
    let early = if late { None } else { Some(exporter()?) };

    let key = TrailKey::open_or_create(place.path().join("key.pem"))?;
    let trail = AuditTrail::builder("worker-1".parse()?, place.path().join("trail"), key)
        .failure_window(Duration::from_secs(300)) // the default
        .failure_threshold_per_mille(10) // the default: 1 %
        .on_degraded(page_somebody)
        .queue_records(100) // so that a few records are too many
        .dangerous_storage_faults(disk.clone())
        .open_or_create()?;
    let page = match early {
        Some(page) => page,
        None => exporter()?,
    };
    let manager = VramManager::builder(Host::new(), &WorkerToken::generate()?, &trail).build()?;
    let mut shard = manager.allocate("weights".parse()?, ModelRef::new("model", 0, 1)?, 4096)?;
    shard.write_at(0, &[7; 4096])?;
    let verified = shard.seal(Provenance::UnpinnedFirstUse)?.verify()?;
    show("A worker that is well", &page);

    for step in [Step::Write, Step::Create] {
        disk.fail(step, StorageError::NoSpace, u32::MAX);
    }
    let lost = (0..200).filter(|i| trail.note(format!("note {i}")).is_err());
    println!(
        "{} records find no room while the disk is full",
        lost.count()
    );
    verified.dangerous_flip_bit(1000, 3)?;
    if let Err(broken) = verified.reverify() {
        println!("{broken}");
    }
    show("The same, and its disk is full", &page);

    disk.heal();
    trail.close()?; // waits for the hook, too
    Ok(())
}

/// Installs the exporter. A real worker serves this page by HTTP with
/// `PrometheusBuilder::new().install()` (feature `http-listener`); this example only prints it.
fn exporter() -> Result<PrometheusHandle, Box<dyn Error>> {
    Ok(PrometheusBuilder::new().install_recorder()?)
}

/// Receives each change of the state, on a thread of its own. It may be slow: send mail, or restart
/// a pod.
fn page_somebody(crossing: &Degradation) {
    let Degradation {
        degraded,
        attempts,
        failures,
        ..
    } = crossing;
    match degraded {
        true => eprintln!("HOOK: {failures} of {attempts} records lost"),
        false => eprintln!("HOOK: recovered"),
    }
}

/// Prints the page after a pause: the writer's thread publishes the metrics about twice a second.
fn show(title: &str, page: &PrometheusHandle) {
    std::thread::sleep(Duration::from_millis(1500));
    println!("\n--- {title}\n{}", page.render());
}
