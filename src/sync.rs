//! The only file that names synchronisation primitives.
//!
//! Outside the models these are parking_lot's lock and std's atomics and `Arc`. With
//! `cfg(leasehold_loom)` each is loom's counterpart, so the models run the product's own code and
//! not a copy of it.

#[cfg(not(leasehold_loom))]
mod primitives {
    #[cfg(feature = "__holds")]
    pub(crate) use super::holds::{Mutex, MutexGuard, TreeGuard, TreeMutex};
    #[cfg(not(feature = "__holds"))]
    pub(crate) use parking_lot::{Mutex, Mutex as TreeMutex, MutexGuard, MutexGuard as TreeGuard};
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

    /// parking_lot's condition variable with std's face.
    #[derive(Debug)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        /// Lets go of the lock until the thread is notified, which may happen for no reason.
        pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            #[cfg(feature = "__holds")]
            self.0.wait(&mut guard.inner);
            #[cfg(not(feature = "__holds"))]
            self.0.wait(&mut guard);
            guard
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// Watches one block of memory in the models; nothing at all outside them.
    #[derive(Debug, Default)]
    pub(crate) struct Probe;

    impl Probe {
        /// The block leaves the arena.
        #[inline(always)]
        pub(crate) fn issue(&self) {}
        /// The block comes back to the arena.
        #[inline(always)]
        pub(crate) fn retire(&self) {}
    }

    /// A lease's way to the probe of its block.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Watch;

    impl Watch {
        /// Watches nothing.
        #[inline(always)]
        pub(crate) fn none() -> Self {
            Self
        }
        #[inline(always)]
        pub(crate) fn of(_probe: &Probe) -> Self {
            Self
        }
        /// The block's bytes are read.
        #[inline(always)]
        pub(crate) fn read(self) {}
        /// The block's bytes are written.
        #[inline(always)]
        pub(crate) fn write(self) {}
    }
}

#[cfg(leasehold_loom)]
mod primitives {
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
    pub(crate) use loom::sync::{MutexGuard, MutexGuard as TreeGuard};

    pub(crate) use Mutex as TreeMutex;

    /// loom's mutex with parking_lot's face.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        #[track_caller]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model panicked while holding a lock")
        }

        /// In one step: else loom would let a thread whose try is about to fail wait for the lock.
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            loom::stop_exploring();
            let locked = self.0.try_lock().ok();
            loom::explore();
            locked
        }
    }

    /// loom's condition variable, as above.
    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        #[track_caller]
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).expect("a model panicked while holding a lock")
        }

        #[track_caller]
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// Watches one block of memory: loom reports a block read or written without a happens-before
    /// edge from its last owner, a block handed out or returned twice, and a block never returned.
    #[derive(Debug)]
    pub(crate) struct Probe(loom::cell::UnsafeCell<Option<loom::alloc::Track<()>>>);

    impl Default for Probe {
        fn default() -> Self {
            Self(loom::cell::UnsafeCell::new(None))
        }
    }

    impl Probe {
        #[track_caller]
        fn with<R>(&self, f: impl FnOnce(&mut Option<loom::alloc::Track<()>>) -> R) -> R {
            // SAFETY: loom runs one thread at a time and reports every access to this cell that
            // is not ordered after the ones before it, so no two references are alive at once.
            self.0.with_mut(|track| f(unsafe { &mut *track }))
        }

        #[track_caller]
        pub(crate) fn issue(&self) {
            self.with(|track| {
                assert!(track.is_none(), "a block was handed out twice");
                *track = Some(loom::alloc::Track::new(()));
            });
        }

        #[track_caller]
        pub(crate) fn retire(&self) {
            self.with(|track| {
                assert!(track.take().is_some(), "a block was returned twice");
            });
        }

        #[track_caller]
        fn read(&self) {
            self.0.with(|track| {
                // SAFETY: as in `with`.
                assert!(unsafe { (*track).is_some() }, "a returned block was read");
            });
        }

        #[track_caller]
        fn write(&self) {
            self.with(|track| assert!(track.is_some(), "a returned block was written"));
        }
    }

    /// A lease's way to the probe of its block.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Watch(Option<std::ptr::NonNull<Probe>>);

    impl Watch {
        pub(crate) fn none() -> Self {
            Self(None)
        }

        pub(crate) fn of(probe: &Probe) -> Self {
            Self(Some(std::ptr::NonNull::from(probe)))
        }

        fn probe(&self) -> Option<&Probe> {
            // SAFETY: the lease holds the block, so its record, and the probe in it, stay.
            self.0.map(|probe| unsafe { probe.as_ref() })
        }

        #[track_caller]
        pub(crate) fn read(self) {
            self.probe().inspect(|probe| probe.read());
        }

        #[track_caller]
        pub(crate) fn write(self) {
            self.probe().inspect(|probe| probe.write());
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            // A block still out when its slab goes was leaked: say so through loom's own check.
            if let Some(track) = self.with(Option::take) {
                std::mem::forget(track);
            }
        }
    }
}

pub(crate) use primitives::*;

/// parking_lot's lock in a build that counts the locks that each thread takes, and records the
/// longest time for which any thread held the scope tree's.
#[cfg(all(feature = "__holds", not(leasehold_loom)))]
#[allow(missing_docs, reason = "for tests of this crate")]
pub mod holds {
    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    thread_local! {
        static LOCKS: Cell<u64> = const { Cell::new(0) };
    }

    static LONGEST_CPU_NS: AtomicU64 = AtomicU64::new(0);
    static LONGEST_WALL_NS: AtomicU64 = AtomicU64::new(0);

    /// How many locks this thread has taken.
    pub fn locks() -> u64 {
        LOCKS.get()
    }

    /// The longest time for which a thread held the tree's lock since the last call: by the clock of
    /// the thread itself, and by that of the wall.
    pub fn take_longest() -> (Duration, Duration) {
        let take = |longest: &AtomicU64| Duration::from_nanos(longest.swap(0, Relaxed));
        (take(&LONGEST_CPU_NS), take(&LONGEST_WALL_NS))
    }

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T, const TREE: bool = false>(parking_lot::Mutex<T>);

    pub(crate) type TreeMutex<T> = Mutex<T, true>;

    pub(crate) struct MutexGuard<'a, T, const TREE: bool = false> {
        /// Stands first, and so is dropped before the lock is let go.
        _hold: Option<Hold>,
        pub(super) inner: parking_lot::MutexGuard<'a, T>,
    }

    /// When it began, by both clocks.
    struct Hold(Duration, Instant);

    pub(crate) type TreeGuard<'a, T> = MutexGuard<'a, T, true>;

    impl<T, const TREE: bool> Mutex<T, TREE> {
        pub(crate) fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T, TREE> {
            LOCKS.set(LOCKS.get() + 1);
            let inner = self.0.lock();
            MutexGuard { _hold: TREE.then(|| Hold(thread_cpu(), Instant::now())), inner }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T, TREE>> {
            let inner = self.0.try_lock()?;
            LOCKS.set(LOCKS.get() + 1);
            Some(MutexGuard { _hold: TREE.then(|| Hold(thread_cpu(), Instant::now())), inner })
        }
    }

    impl<T, const TREE: bool> Deref for MutexGuard<'_, T, TREE> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.inner
        }
    }

    impl<T, const TREE: bool> DerefMut for MutexGuard<'_, T, TREE> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.inner
        }
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            let Self(cpu, wall) = self;
            LONGEST_CPU_NS.fetch_max((thread_cpu() - *cpu).as_nanos() as u64, Relaxed);
            LONGEST_WALL_NS.fetch_max(wall.elapsed().as_nanos() as u64, Relaxed);
        }
    }

    /// The processor time that this thread has used.
    #[cfg(unix)]
    fn thread_cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    #[cfg(not(unix))]
    fn thread_cpu() -> Duration {
        Duration::ZERO
    }
}

/// Atomics that no protocol depends on (call sites, the coarse clock, what reports read). The
/// models leave them alone, which keeps the number of executions down.
pub(crate) mod unmodelled {
    pub(crate) use std::sync::atomic::{
        AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed,
    };
}
