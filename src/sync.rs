//! The only file that names synchronisation primitives.
//!
//! Outside the models these are parking_lot's lock and std's atomics and `Arc`. With
//! `cfg(leasehold_loom)` each is loom's counterpart, so the models run the product's own code and
//! not a copy of it.

#[cfg(not(leasehold_loom))]
mod primitives {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

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
        /// Someone reads the block's bytes.
        #[inline(always)]
        pub(crate) fn read(self) {}
        /// Someone writes the block's bytes.
        #[inline(always)]
        pub(crate) fn write(self) {}
    }
}

#[cfg(leasehold_loom)]
mod primitives {
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

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

/// Atomics that no protocol depends on (call sites, the coarse clock, what reports read). The
/// models leave them alone, which keeps the number of executions down.
pub(crate) mod unmodelled {
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};
}
