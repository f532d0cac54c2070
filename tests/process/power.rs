//! A real kernel whose disk is cut off in the middle of a write.
//!
//! The story: a worker records on a disk of its own. At a random moment the file system is told to
//! stop where it stands, without writing its log: what was only in memory is gone, as if the power
//! had failed. The worker is killed, the disk is mounted again, the kernel replays its journal. Then
//! every record whose receipt the worker has told must be there, nothing may be called broken, and
//! the next run goes on in the trail. That the kernel did lose something is counted: bytes that had
//! been written to a segment and are not there afterwards. Were there none, nothing would be shown.
//!
//! A cut takes the kernel some microseconds, and a sync in flight meanwhile is at times told to have
//! worked when it has not (ext4 of Linux 6.18). Without power nobody would have been told anything,
//! so what must be there is what was told before the cut began.
//!
//! This needs root and loop devices. `VRAM_CUTS=500` is the long form.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Place, Random, child, name_of, number, say, skip};
use crate::worker::{Told, Worker, now, record_for_ever};
use rustix::ioctl::{Setter, ioctl};

/// A trail lives through so many cuts, some of them while it is opened.
const CUTS_PER_TRAIL: u64 = 5;

#[test]
fn no_receipt_is_lost_when_ext4_is_cut_off() {
    let test = name_of(no_receipt_is_lost_when_ext4_is_cut_off);
    cut_off_again_and_again(test, &["mkfs.ext4", "-q", "-F"], 64 << 20);
}

#[test]
fn no_receipt_is_lost_when_xfs_is_cut_off() {
    let test = name_of(no_receipt_is_lost_when_xfs_is_cut_off);
    // The least that mkfs.xfs takes.
    cut_off_again_and_again(test, &["mkfs.xfs", "-q"], 300 << 20);
}

fn cut_off_again_and_again(test: &str, mkfs: &[&str], bytes: u64) {
    if let Some(place) = child() {
        record_for_ever(&place);
    }
    let place = Place::new();
    let Some(disk) = Disk::made(place.temp.path(), mkfs, bytes) else {
        return;
    };
    let cuts = number("VRAM_CUTS", 20);
    let mut random = Random::told(test);
    let mut toll = Toll::default();
    // It goes on until it has bitten; how soon it does, is up to the machine.
    while toll.cuts < cuts || (toll.bites == 0 && toll.cuts < 5 * cuts) {
        live(test, &disk, &mut random, &mut toll);
    }
    say(&format!("{test}: {toll:?}, 0 receipts lost"));
    assert!(
        toll.receipts as u64 > cuts,
        "cut off before anything was told"
    );
    assert!(toll.bites > 0, "the disk has never lost anything");
}

/// What became of everything.
#[derive(Debug, Default)]
struct Toll {
    cuts: u64,
    receipts: usize,
    /// Receipts that were told during a cut.
    meanwhile: usize,
    /// Cuts that lost bytes that had been written.
    bites: u64,
}

/// A trail, from its first opening to its closing.
fn live(test: &str, disk: &Disk, random: &mut Random, toll: &mut Toll) {
    let place = disk.directory("life");
    let mut told = Told::default();
    for _ in 0..CUTS_PER_TRAIL {
        let worker = Worker::until_a_moment(test, &place, random);
        let cut = disk.cut_off_behind_a_write(&place);
        let mut heard = worker.kill();
        let before = heard.receipts.len();
        heard.receipts.retain(|_, (at, _)| *at < cut.began);
        toll.meanwhile += before - heard.receipts.len();
        told.and(heard);
        disk.unmount();
        disk.mount().unwrap();
        toll.bites += u64::from(written(&place) < cut.written);
        toll.cuts += 1;
        told.expect_kept(&place.join("trail"));
    }
    toll.receipts += told.receipts.len();
    told.expect_continued(&place);
    fs::remove_dir_all(&place).unwrap();
}

/// How many bytes there are in those without a name included.
fn written(place: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(place.join("trail")) else {
        return 0;
    };
    // One may be renamed meanwhile: then it is not counted, and no bite either.
    let lengths = entries.filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()));
    lengths.sum()
}

/// What was known when a cut began.
struct Cut {
    began: Duration,
    /// How many bytes had been written.
    written: u64,
}

/// A file system in a file, mounted where this test's thread and its children see it and nobody
/// else does: however the test ends, nothing is left behind.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// None where that cannot be.
    fn made(place: &Path, mkfs: &[&str], bytes: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            say("SKIPPED: mounting a disk needs root");
            return None;
        }
        // SAFETY: no memory is involved; only this thread's view of the mounts changes.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            let why = std::io::Error::last_os_error();
            say(&format!("SKIPPED: no mounts of our own: {why}"));
            return None;
        }
        let disk = Self {
            image: place.join("image"),
            at: place.join("disk"),
        };
        fs::create_dir(&disk.at).unwrap();
        File::create(&disk.image).unwrap().set_len(bytes).unwrap();
        let made = Command::new(mkfs[0])
            .args(&mkfs[1..])
            .arg(&disk.image)
            .output();
        match made {
            Ok(made) => assert!(made.status.success(), "{made:?}"),
            Err(error) => {
                skip(&format!("`{}` does not run: {error}", mkfs[0]));
                return None;
            }
        }
        run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]).unwrap();
        if let Err(why) = disk.mount() {
            say(&format!("SKIPPED: no disk can be mounted: {why}"));
            return None;
        }
        Some(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run(
            "mount",
            &["-o".as_ref(), "loop".as_ref(), &self.image, &self.at],
        )
    }

    /// Until it runs a program of its own, a child that the other test has forked holds what is open here.
    fn unmount(&self) {
        let patience = now() + Duration::from_secs(10);
        while let Err(why) = run("umount", &[&self.at]) {
            assert!(why.contains("busy") && now() < patience, "{why}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a write to the trail, a little while, and stops the file system before its sync has
    /// ended: `GOINGDOWN` without a flush of the log, as ext4, XFS and others understand it.
    fn cut_off_behind_a_write(&self, place: &Path) -> Cut {
        const GOINGDOWN: u32 = 0x8004_587d;
        const NO_LOG_FLUSH: u32 = 2;
        // SAFETY: this call reads one u32.
        let stop = unsafe { Setter::<GOINGDOWN, u32>::new(NO_LOG_FLUSH) };
        let root = File::open(&self.at).unwrap();
        let (before, patience) = (written(place), now() + Duration::from_millis(10));
        let mut written_now = before;
        while written_now == before && now() < patience {
            written_now = written(place);
        }
        let began = now();
        // SAFETY: as above; the descriptor is open.
        unsafe { ioctl(&root, stop) }.unwrap();
        Cut {
            began,
            written: written_now,
        }
    }

    /// A directory on it, with a key for a trail: both are there to stay.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.at.join(name);
        fs::create_dir(&path).unwrap();
        let _key = support::key_at(&path);
        rustix::fs::syncfs(File::open(&path).unwrap()).unwrap();
        path
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("`{program}` does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
