//! Futures that wait for a connection to close.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

use super::Connection;
use super::state::Phase;
use crate::try_box::{OutOfMemory, TryBox};

/// Where a future's waker is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakerKey {
    /// In the connection's record, which has room for one.
    First,
    /// In a table, under a number that is never used again.
    Further(NonZeroU64),
}

/// Wakers of all futures but the first, by key.
#[derive(Default)]
pub(super) struct Wakers {
    waiting: Vec<(NonZeroU64, Waker)>,
    last_key: u64,
}

impl Connection {
    /// Registers a future's waker for the close, or returns that it has happened. `key` is the
    /// future's own.
    pub(crate) fn poll_closed(&self, key: &mut Option<WakerKey>, waker: &Waker) -> bool {
        if self.is_closed() {
            return true;
        }
        {
            let mut locked = self.lock();
            if let Some(registered) = locked.waker_mut(*key)
                && registered.will_wake(waker)
            {
                return false;
            }
        }
        // Cloned before the lock, and the replaced one dropped after it: both may run any code.
        let waker = waker.clone();
        let mut locked = self.lock();
        let ledger = &mut locked.state.ledger;
        if ledger.phase != Phase::Open {
            drop(locked);
            return true;
        }
        let replaced = match *key {
            None if ledger.waker.is_none() => {
                *key = Some(WakerKey::First);
                ledger.waker.replace(waker)
            }
            Some(WakerKey::First) => ledger.waker.replace(waker),
            None | Some(WakerKey::Further(_)) => {
                let wakers =
                    ledger.tables_or_new().and_then(|tables| TryBox::or_new(&mut tables.wakers));
                let reserved = wakers.and_then(|wakers| {
                    wakers.waiting.try_reserve(1).map_err(|_| OutOfMemory)?;
                    Ok(wakers)
                });
                let Ok(wakers) = reserved else {
                    ledger.drop_empty_tables();
                    drop(locked);
                    // Without memory to wait, the future is polled again at once.
                    waker.wake();
                    return false;
                };
                wakers.insert(key, waker)
            }
        };
        drop(locked);
        drop(replaced);
        false
    }

    /// Forgets a future's waker.
    pub(crate) fn forget_waker(&self, key: WakerKey) {
        let mut locked = self.lock();
        let ledger = &mut locked.state.ledger;
        let forgotten = match (key, &mut ledger.tables) {
            (WakerKey::First, _) => ledger.waker.take(),
            (WakerKey::Further(key), Some(tables)) => {
                tables.wakers.as_mut().and_then(|wakers| wakers.remove(key))
            }
            (WakerKey::Further(_), None) => None,
        };
        ledger.drop_empty_tables();
        drop(locked);
        drop(forgotten);
    }
}

impl Wakers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn get_mut(&mut self, key: NonZeroU64) -> Option<&mut Waker> {
        self.waiting.iter_mut().find(|(of, _)| *of == key).map(|(_, waker)| waker)
    }

    /// Enters a waker, for which there is room, or replaces the one that is there.
    fn insert(&mut self, key: &mut Option<WakerKey>, waker: Waker) -> Option<Waker> {
        if let Some(WakerKey::Further(known)) = *key
            && let Some(registered) = self.get_mut(known)
        {
            return Some(std::mem::replace(registered, waker));
        }
        self.last_key += 1;
        let new = NonZeroU64::new(self.last_key)?;
        *key = Some(WakerKey::Further(new));
        self.waiting.push((new, waker));
        None
    }

    fn remove(&mut self, key: NonZeroU64) -> Option<Waker> {
        let place = self.waiting.iter().position(|(of, _)| *of == key)?;
        let (_, waker) = self.waiting.swap_remove(place);
        if self.waiting.len() < self.waiting.capacity() / 4 {
            self.waiting.shrink_to(self.waiting.len() * 2);
        }
        Some(waker)
    }
}

/// Wakes the futures that wait, even if wakers panic: then with the first panic, once all are woken.
pub(super) fn wake_all(first: Option<Waker>, further: Option<TryBox<Wakers>>) {
    let mut panic = None;
    let further = further.into_iter().flat_map(|mut all| std::mem::take(&mut all.waiting));
    for waker in first.into_iter().chain(further.map(|(_, waker)| waker)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            panic.get_or_insert(payload);
        }
    }
    // A second panic while one unwinds would abort the process.
    if let Some(payload) = panic
        && !std::thread::panicking()
    {
        resume_unwind(payload);
    }
}
