//! The whole path compiles, and works: allocate, write, seal, verify, read, verify again, release.

use std::error::Error;

use vram_residency::{AuditTrail, Host, ModelRef, Provenance, TrailKey, VramManager, WorkerToken};

fn main() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let key = TrailKey::open_or_create(temp.path().join("key.pem"))?;
    let trail = AuditTrail::builder("w".parse()?, temp.path().join("trail"), key).open_or_create()?;
    let token = WorkerToken::generate()?;
    let manager = VramManager::builder(Host::new(), &token, &trail).build()?;

    let mut shard = manager.allocate("s".parse()?, ModelRef::new("m", 0, 1)?, 7)?;
    shard.write_at(0, b"weights")?;
    let sealed = shard.seal(Provenance::UnpinnedFirstUse)?;
    let verified = sealed.verify()?;
    assert_eq!(verified.view(), b"weights");
    let verified = verified.reverify()?.verify_window(0..1)?;
    assert_eq!(verified.view(), b"weights");
    verified.release()?;

    manager.close()?;
    trail.close()?;
    Ok(())
}
