//! Futures that wait for a connection to close.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

use super::Connection;
use super::state::{Ledger, Phase};
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
pub(super) struct Wakers {
    waiting: Vec<(NonZeroU64, Waker)>,
    last_key: NonZeroU64,
}

impl Default for Wakers {
    fn default() -> Self {
        Self { waiting: Vec::new(), last_key: NonZeroU64::MIN }
    }
}

impl Connection {
    /// Registers a future's waker for the close, or returns that it has happened. `key` is the
    /// future's own.
    pub(crate) fn poll_closed(&self, key: &mut Option<WakerKey>, waker: &Waker) -> bool {
        if self.is_closed() {
            return true;
        }
        let is_registered = |ledger: &mut Ledger| {
            let registered = ledger.waker_mut((*key)?)?;
            registered.will_wake(waker).then_some(())
        };
        if is_registered(self.lock().ledger()).is_some() {
            return false;
        }
        // Cloned before the lock, and the replaced one dropped after it: both may run any code.
        let mut waker = waker.clone();
        let mut locked = self.lock();
        let ledger = locked.ledger();
        if ledger.phase != Phase::Open {
            return true;
        }
        if let Some(registered) = key.and_then(|key| ledger.waker_mut(key)) {
            std::mem::swap(registered, &mut waker);
        } else if ledger.waker.is_none() {
            ledger.waker = Some(waker);
            *key = Some(WakerKey::First);
        } else if let Ok(further) = ledger.wakers_or_new() {
            *key = Some(WakerKey::Further(further.insert(waker)));
        } else {
            ledger.drop_empty_tables();
            drop(locked);
            // Without memory to wait, the future is polled again at once.
            waker.wake();
        }
        false
    }

    /// Forgets a future's waker.
    pub(crate) fn forget_waker(&self, key: WakerKey) {
        let mut locked = self.lock();
        let ledger = locked.ledger();
        let further = ledger.tables.as_mut().and_then(|tables| tables.wakers.as_mut());
        let forgotten = match key {
            WakerKey::First => ledger.waker.take(),
            WakerKey::Further(key) => further.and_then(|wakers| wakers.remove(key)),
        };
        ledger.drop_empty_tables();
        drop(locked);
        drop(forgotten);
    }
}

impl Ledger {
    fn waker_mut(&mut self, key: WakerKey) -> Option<&mut Waker> {
        let WakerKey::Further(key) = key else { return self.waker.as_mut() };
        let waiting = &mut self.tables.as_mut()?.wakers.as_mut()?.waiting;
        waiting.iter_mut().find(|(of, _)| *of == key).map(|(_, waker)| waker)
    }

    /// The further wakers, with room for one more.
    fn wakers_or_new(&mut self) -> Result<&mut Wakers, OutOfMemory> {
        let wakers = TryBox::or_new(&mut self.tables_or_new()?.wakers)?;
        wakers.waiting.try_reserve(1).map_err(|_| OutOfMemory)?;
        Ok(wakers)
    }
}

impl Wakers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Enters a waker, for which there is room.
    fn insert(&mut self, waker: Waker) -> NonZeroU64 {
        self.last_key = self.last_key.saturating_add(1);
        self.waiting.push((self.last_key, waker));
        self.last_key
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
