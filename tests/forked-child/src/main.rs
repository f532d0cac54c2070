//! Reads shards in a forked child, in safe code: `before_exec` runs a closure between `fork` and `exec`.
//!
//! Each argument names a case. What a child finds wrong makes its `spawn` an error; a fault, its status.

#![forbid(unsafe_code)]
#![allow(deprecated, reason = "`pre_exec`, the other one, is unsafe")]

use std::error::Error;
use std::hint::black_box;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vram_residency::shard::Verified;
use vram_residency::{
    AuditTrail, Host, Lease, ModelRef, Provenance, Shard, Stream, TrailKey, VramManager, WorkerToken,
};

type Failure = Box<dyn Error + Send + Sync>;

/// More than one huge page, and an odd end.
const LEN: usize = (9 << 20) + 7;

/// How many bytes the child allocates, so that its heap grows into every hole.
const HEAP: usize = 64 << 20;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().ok_or("say where the trail is to be")?;
    let case = arguments.next().ok_or("say which case")?;
    let key = TrailKey::open_or_create(Path::new(&place).join("key.pem"))?;
    let trail = AuditTrail::builder("worker-1".parse()?, Path::new(&place).join("trail"), key)
        .open_or_create()?;
    let token = WorkerToken::generate()?;
    let manager = VramManager::builder(Host::new(), &token, &trail).build()?;
    let shard = verified(&manager)?;
    match &*case {
        "shard" => read_in_child(move || is_intact(shard.view()))?,
        "lease" => {
            let shared = shard.share();
            let lease = shared.lease()?;
            read_in_child(move || is_intact(lease.view()) && !lease.is_current())?;
            shared.check()?;
        }
        "static" => {
            let lease: &'static Lease<Host> = Box::leak(Box::new(shard.share().lease()?));
            let bytes: &'static [u8] = lease.view();
            read_in_child(move || is_intact(bytes))?;
            assert!(is_intact(bytes));
        }
        "no-child" => {
            // `spawn` forks only where there is something to run in the child before `exec`.
            run(Command::new("true"))?;
            shard.release()?;
        }
        "wiping-parent" => wipe_under_a_child(shard)?,
        other => return Err(format!("there is no case {other}").into()),
    }
    drop(manager);
    trail.close()?;
    Ok(())
}

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

fn is_intact(bytes: &[u8]) -> bool {
    bytes.len() == LEN && (0..LEN).all(|at| black_box(bytes)[at] == byte(at))
}

fn verified(manager: &VramManager<Host>) -> Result<Shard<Verified, Host>, Failure> {
    let bytes: Vec<u8> = (0..LEN).map(byte).collect();
    let model = ModelRef::new("model", 0, 1)?;
    let mut shard = manager.allocate("shard".parse()?, model, LEN as u64)?;
    shard.load_from(&*bytes, Stream::TreeOnly)?;
    Ok(shard.seal(Provenance::UnpinnedFirstUse)?.verify()?)
}

/// The bytes must be intact, and stay so when the child's heap grows.
fn read_in_child(is_intact: impl Fn() -> bool + Send + Sync + 'static) -> Result<(), Failure> {
    let mut command = Command::new("true");
    command.before_exec(move || {
        let before = is_intact();
        let heap: Vec<Vec<u8>> = (0..HEAP >> 20).map(|_| vec![0xee; 1 << 20]).collect();
        black_box(&heap);
        answer(before && is_intact())
    });
    run(command)
}

/// The parent drops the last lease and releases the shard while the child holds a view of its copy.
fn wipe_under_a_child(shard: Shard<Verified, Host>) -> Result<(), Failure> {
    let shared = shard.share();
    // What `Command` owns is the parent's too: it must be able to let the lease go.
    let lease = Arc::new(Mutex::new(Some(shared.lease()?)));
    let (mut has_view, has): (PipeReader, PipeWriter) = io::pipe()?;
    let (wiped, mut has_wiped) = io::pipe()?;
    let in_child = Arc::clone(&lease);
    let mut command = Command::new("true");
    command.before_exec(move || {
        let lease = in_child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = &*lease else {
            return answer(false);
        };
        let bytes = lease.view();
        let before = is_intact(bytes);
        (&has).write_all(b"x")?;
        (&wiped).read_exact(&mut [0])?;
        answer(before && is_intact(bytes))
    });
    let child = thread::spawn(move || run(command));
    has_view.read_exact(&mut [0])?;
    drop(lease.lock().unwrap_or_else(PoisonError::into_inner).take());
    shared.reclaim()?.release()?;
    has_wiped.write_all(b"x")?;
    child.join().map_err(|_| "the thread panicked")?
}

/// An error becomes that of `spawn`; only its number reaches the parent.
fn answer(is_intact: bool) -> io::Result<()> {
    match is_intact {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(74)), // EBADMSG: the bytes have changed
    }
}

fn run(mut command: Command) -> Result<(), Failure> {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the child ended with {status}").into()),
    }
}
