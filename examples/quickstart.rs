//! Loads bytes into a shard, verifies them, serves them, and leaves a signed trail.
//!
//! Run `cargo run --example quickstart`. The full demonstration is `examples/worker.rs`.

use vram_residency::{
    AuditTrail, Digest, Host, ModelRef, Provenance, Stream, TrailKey, VramManager, WorkerToken,
};

fn main() -> Result<(), vram_residency::Error> {
    // A service creates key and trail once, keeps them, and later calls `open`.
    let dir = tempfile::tempdir()?;
    let key = TrailKey::create(dir.path().join("trail-key.pem"))?;
    let trail = AuditTrail::builder("worker-1".parse()?, dir.path().join("trail"), key).create()?;
    let manager = VramManager::builder(Host::new(), &WorkerToken::generate()?, &trail).build()?;

    // A release states the digest of its weights, as `fsverity digest FILE` prints it.
    let weights = vec![42; 1 << 20];
    let expected = Digest::of_reader(&weights[..])?;

    let model = ModelRef::new("acme/tiny", 0, 1)?; // part 0 of 1
    let mut shard = manager.allocate("layer-0".parse()?, model, weights.len() as u64)?;
    shard.load_slice(&weights, Stream::TreeOnly)?;
    let verified = shard.seal(Provenance::FsVerity(expected))?.verify()?;
    println!("{} proven bytes", verified.view().len());

    // Leases serve for weeks; checks read the memory again beside them.
    let shared = verified.share();
    let lease = shared.lease()?;
    shared.check()?;
    println!("the lease is current: {}", lease.is_current());

    drop((lease, shared, manager));
    let receipt = trail.close()?;
    println!("{} records are on disk", receipt.checkpoint().size());
    Ok(())
}
