//! Threads that share few pieces of pinned memory, on a simulated GPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use simulated_cuda::in_child;

use super::{Piece, Taken};
use crate::device::Cuda;
use crate::device::backend::{Backend as _, Permit};

#[test]
fn who_finds_no_piece_gets_the_next_that_comes_back() {
    in_child(|_| {
        let gpu = Cuda::builder(0).open().unwrap();
        let memory = gpu.allocate(1, Permit::mint()).unwrap();
        let staging = &gpu.staging;
        let all: Vec<Piece> = staging.free().drain(..).collect();
        let mut taken = all.into_iter().map(|piece| Taken {
            staging,
            piece: Some(piece),
        });
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    gpu.window_hashed_here(&memory, 0).unwrap();
                    is_done.store(true, Ordering::SeqCst);
                });
            }
            thread::sleep(Duration::from_millis(100));
            assert!(!is_done.load(Ordering::SeqCst), "there was no piece");
            // One piece is enough for all threads.
            drop(taken.next());
        });
        assert_eq!(staging.free().len(), 1);
        drop(taken.collect::<Vec<_>>());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            staging.with_piece::<()>(|_, _| panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        assert_eq!(staging.free().len(), super::pieces());
    });
}
