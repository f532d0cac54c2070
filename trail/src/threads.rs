//! The primitives with which queue, writer and anchors wait: locks, a clock, a thread. The code
//! takes them from here, so that `--cfg shuttle` can run it under a scheduler that tries any order
//! of the threads.
//!
//! Shuttle has no time, so its clock is here, too. A limit is a thread that may run at any moment,
//! moves the clock to the end of the limit, and wakes the waiting thread. So a limit ends as early
//! or as late as the scheduler chooses, spurious wake-ups occur, and nothing takes real time. In a
//! `Patient` world the clock stands still and no limit ends: there a forgotten wake-up is a
//! deadlock, and not only a delay.

#[cfg(not(all(shuttle, feature = "shuttle")))]
pub use std::{
    sync::atomic::AtomicU64,
    sync::{Condvar, Mutex, MutexGuard},
    thread::{Builder, JoinHandle, current, sleep},
    time::Instant,
};

#[cfg(all(shuttle, feature = "shuttle"))]
pub use model::*;

#[cfg(all(shuttle, feature = "shuttle"))]
mod model {
    use std::cell::Cell;
    use std::ops::Add;
    use std::sync::{Arc, LockResult};
    use std::time::Duration;

    use shuttle::sync::WaitTimeoutResult;
    pub use shuttle::sync::atomic::AtomicU64;
    use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub use shuttle::sync::{Mutex, MutexGuard};
    pub use shuttle::thread::{Builder, JoinHandle, current};
    use shuttle::thread::{spawn, yield_now};

    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum World {
        /// Limits end.
        Hasty,
        /// Limits never end.
        Patient,
    }

    thread_local! {
        // Executions run one after the other, each with all its threads on one thread of the
        // system.
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static WORLD: Cell<World> = const { Cell::new(World::Patient) };
    }

    /// Begins an execution.
    pub fn begin(world: World) {
        NOW.set(Duration::ZERO);
        WORLD.set(world);
    }

    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Self {
            Self(NOW.get())
        }

        pub fn elapsed(self) -> Duration {
            NOW.get() - self.0
        }

        pub fn checked_add(self, duration: Duration) -> Option<Self> {
            self.0.checked_add(duration).map(Self)
        }

        pub fn checked_sub(self, duration: Duration) -> Option<Self> {
            self.0.checked_sub(duration).map(Self)
        }

        pub fn saturating_duration_since(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        fn add(self, duration: Duration) -> Self {
            Self(self.0 + duration)
        }
    }

    fn pass_to(end: Duration) {
        if WORLD.get() == World::Hasty {
            NOW.set(NOW.get().max(end));
        }
    }

    pub fn sleep(duration: Duration) {
        let end = NOW.get() + duration;
        yield_now();
        pass_to(end);
    }

    #[derive(Debug, Default)]
    pub struct Condvar(Arc<shuttle::sync::Condvar>);

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait(guard)
        }

        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            limit: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
            if WORLD.get() == World::Patient {
                return self.0.wait_timeout(guard, limit);
            }
            let awake = Arc::new(AtomicBool::new(false));
            let (condvar, is_awake) = (Arc::clone(&self.0), Arc::clone(&awake));
            let end = NOW.get() + limit;
            spawn(move || {
                // Repeated, since the first time may be before the wait begins.
                while !is_awake.load(Ordering::Relaxed) {
                    pass_to(end);
                    condvar.notify_all();
                    yield_now();
                }
            });
            let woken = self.0.wait_timeout(guard, limit);
            awake.store(true, Ordering::Relaxed);
            woken
        }
    }
}
