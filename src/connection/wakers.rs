//! Who waits for a connection to close.

use std::collections::BTreeMap;
use std::task::Waker;

use super::Connection;
use super::ledger::Phase;

/// Wakers by a key that is never used again.
#[derive(Default)]
pub(super) struct Wakers {
    waiting: BTreeMap<u64, Waker>,
    next_key: u64,
}

impl Connection {
    /// Registers a waker for the close under `key`, or says that it has happened.
    pub(crate) fn poll_closed(&self, key: &mut Option<u64>, waker: &Waker) -> bool {
        if self.is_closed() {
            return true;
        }
        // Cloned before the lock, and the replaced one dropped after it: both may run any code.
        let waker = waker.clone();
        let mut ledger = self.ledger.lock();
        if ledger.phase != Phase::Open {
            return true;
        }
        let Wakers { waiting, next_key } = &mut **ledger.wakers.get_or_insert_default();
        let key = *key.get_or_insert_with(|| {
            *next_key += 1;
            *next_key
        });
        let replaced = waiting.insert(key, waker);
        drop(ledger);
        drop(replaced);
        false
    }

    /// Forgets a waker.
    pub(crate) fn forget_waker(&self, key: u64) {
        let mut ledger = self.ledger.lock();
        let forgotten = ledger.wakers.as_mut().and_then(|wakers| wakers.waiting.remove(&key));
        let empty = ledger.wakers.take_if(|wakers| wakers.waiting.is_empty());
        drop(ledger);
        drop((forgotten, empty));
    }
}

impl Wakers {
    /// Wakes everyone, even if a waker panics.
    pub(super) fn wake_all(self) {
        struct Rest<I: Iterator<Item = Waker>>(I);

        impl<I: Iterator<Item = Waker>> Drop for Rest<I> {
            fn drop(&mut self) {
                self.0.by_ref().for_each(Waker::wake);
            }
        }

        let mut rest = Rest(self.waiting.into_values());
        for waker in rest.0.by_ref() {
            // If this panics, the unwinding wakes the rest.
            waker.wake();
        }
    }
}
