//! The use of pinned bytes during copies, and the rule that a forked child leaves them alone.

use simulated_cuda::in_child;

use super::*;
use crate::device::Cuda;
use crate::device::backend::{Backend as _, Permit};

#[test]
fn bytes_that_a_copy_uses_are_neither_lent_nor_written_until_it_has_been_waited_for() {
    in_child(|_| {
        let gpu = Cuda::builder(0).open().unwrap();
        let memory = gpu.allocate(4096, Permit::mint()).unwrap();
        let context = &gpu.context;
        let mut pinned = Pinned::new(context, 4096).unwrap();
        let stream = context.copies();
        let refused =
            |outcome: Called<()>| outcome.unwrap_err().call.contains("while it is copied");
        context
            .within("test", |_| {
                pinned.write(0, b"weights")?;
                pinned.upload(0..7, memory.address(), stream)?;
                assert!(refused(pinned.write(6, b"x")));
                assert!(refused(pinned.download(0..1, memory.address(), stream)));
                assert_eq!(pinned.bytes(0..7)?, b"weights", "the device reads, too");
                pinned.write(7, b"behind")?;
                pinned.upload(20..30, memory.address(), stream)?;
                assert!(refused(pinned.write(13, b"between")));

                pinned.download(100..107, memory.address(), stream)?;
                assert!(refused(pinned.bytes(106..200).map(drop)));
                assert!(refused(pinned.write(99, b"xx")));
                assert!(refused(pinned.upload(100..101, memory.address(), stream)));
                assert_eq!(pinned.bytes(107..108)?, [0]);
                assert!(pinned.bytes(4000..4097).is_err());
                Ok(())
            })
            .unwrap();
        context
            .within("test", |driver| driver.synchronize_stream(stream))
            .unwrap();
        // SAFETY: the stream of all copies has been waited for.
        unsafe { pinned.settled() };
        pinned.write(0, b"W").unwrap();
        assert_eq!(pinned.bytes(0..7).unwrap(), b"Weights");
        pinned.bytes(100..107).unwrap();
    });
}

/// The child must not wipe the parent's copy, and the driver keeps pinned memory out of children.
#[test]
fn a_forked_child_that_drops_pinned_memory_does_not_touch_it() {
    in_child(|_| {
        let gpu = Cuda::builder(0).open().unwrap();
        let page = rustix::param::page_size();
        let pinned = Pinned::new(&gpu.context, 3 * page).unwrap();
        let start = pinned.start.as_ptr();
        let start = start.wrapping_add(start.align_offset(page)).cast();
        // SAFETY: a whole page of the value's; the test does not need it in the child.
        let kept = unsafe { libc::madvise(start, page, libc::MADV_DONTFORK) };
        assert_eq!(kept, 0);
        // SAFETY: the child drops one value and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(pinned);
            // SAFETY: ends the process, and does nothing else.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the status is a local's.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child was ended by a signal");
    });
}
