//! A connection's record: where budgets and memory meet.
//!
//! **Two speeds.** A lease that the connection's own [`Magazine`] can serve is one compare-exchange on
//! its word, and so is its return: no lock, no shared cache line. Everything else (an empty magazine,
//! a ninth block, a large lease, a reservation, a stream, a bind, a close) takes the connection's
//! mutex and then, where a charge changes, the scope tree's and the arena's.
//!
//! **Lock order.** connection ▸ scope tree ▸ arena; the registry's shards and the folded counters are
//! taken under any of them and take none. A thread that holds one connection's mutex waits for no
//! other: it only tries the other's, to take idle blocks. No memory
//! is mapped or unmapped, no waker woken, cloned or dropped, and no last share of a record dropped
//! under any of them: what has to be dropped lies in the [`Locked`] value, behind the lock, and
//! whatever takes longer is done between two attempts ([`Attempts`](attempt::Attempts)).
//!
//! **Phases.** *Open* ▸ *closed* (once, by the guard or from outside: memory comes back, and
//! everything new is refused) ▸ *gone* (the guard dropped: counts come back, and what was borrowed
//! and forgotten) ▸ forgotten by the registry, once the last pinned or detached block is back. Then the
//! record also lets go of its governor.
//!
//! **What keeps a record in memory.** The registry and, from the first lease on, the record's own
//! `keep` do while the guard lives. A `'static` lease holds a bare pointer and costs no reference
//! count: closing counts the leases that are out (*stragglers*), and `keep` stays until the guard is
//! gone, the last of them has dropped, and nothing is charged any more. A straggler therefore takes
//! the mutex *before* it gives its block back, and takes a share of `keep` with it for as long as it
//! still works on the record.

mod account;
mod admit;
mod attempt;
mod audit;
mod close;
mod depot;
#[cfg(feature = "tracing")]
mod events;
mod lease;
mod locked;
mod marks;
mod put;
mod remote;
mod shared;
mod state;
mod stream;
mod wakers;

use std::panic::Location;

use crate::counters::LARGE;
use crate::error::LeaseError;
use crate::magazine::{Extra, Hold, Magazine, SlotRef};
use crate::name::{Direction, Source};
use crate::ranges::MAX_SIZE_CLASSES;
use crate::registry::Registered;
use crate::scope::{Idle, Member};
use crate::sync::unmodelled::AtomicU32;
use crate::sync::{Arc, Mutex};
pub(crate) use account::StreamAccount;
pub(crate) use audit::{Audit, Holder};
pub(crate) use close::Closer;
use depot::Depot;
pub(crate) use lease::{Ask, Granted, Memory};
use remote::Remote;
pub(crate) use shared::{Hot, Shared};
use state::{Ledger, State};
pub(crate) use wakers::WakerKey;

/// One connection.
///
/// The order of the fields keeps what the fast path reads and writes (`hot`, `magazines`) so far from
/// both ends that no neighbour in memory ever shares a cache line with it.
#[repr(C)]
pub(crate) struct Connection {
    serial: u64,
    site: &'static Location<'static>,
    admitted_tick: u32,
    /// Where it comes from, unless the state says otherwise.
    remote: Remote,
    hot: Arc<Hot>,
    magazines: [Magazine; MAX_SIZE_CLASSES],
    /// The registry's.
    slot: AtomicU32,
    state: Mutex<State>,
}

#[cfg(not(leasehold_loom))]
const _: () = {
    use std::mem::offset_of;
    // Two reference counts stand before the record, which begins at a multiple of eight.
    const COUNTS: usize = 16;
    assert!(COUNTS + offset_of!(Connection, hot) >= 56);
    let hot_end = offset_of!(Connection, magazines) + size_of::<[Magazine; MAX_SIZE_CLASSES]>();
    assert!(size_of::<Connection>() - hot_end >= 63);
    // And a registry's entry, at most 20 bytes, beside it: see `tests/idle.rs`.
    assert!(COUNTS + size_of::<Connection>() <= 360);
};

/// What a connection is to be admitted as.
pub(crate) struct Terms<'a> {
    pub(crate) direction: Direction,
    pub(crate) fd: bool,
    pub(crate) weight_bytes: u64,
    pub(crate) source: Option<Source>,
    pub(crate) class: Option<&'a str>,
}

/// A magazine of a connection, in which a lease has its block.
#[derive(Clone, Copy)]
pub(crate) enum Home<'a> {
    /// The first of a size class.
    First(usize),
    Extra(&'a Extra),
}

impl Home<'_> {
    /// The size class, or [`LARGE`].
    fn kind(self) -> usize {
        match self {
            Home::First(class) => class,
            Home::Extra(extra) => extra.kind(),
        }
    }

    fn is_large(self) -> bool {
        self.kind() == LARGE
    }
}

impl Registered for Connection {
    fn serial(&self) -> u64 {
        self.serial
    }

    fn slot(&self) -> &AtomicU32 {
        &self.slot
    }
}

impl Member for Arc<Connection> {
    fn first_idle(&self) -> Idle {
        self.idle_in(self.first_magazines())
    }

    fn idle(&self) -> Idle {
        let mut idle = self.first_idle();
        // The mutex alone leads to the extra magazines. A close holds it until its blocks are off the
        // scopes.
        match self.state.try_lock() {
            Some(state) => idle.add(self.extra_idle(&state.ledger)),
            None => idle.bytes = u64::MAX,
        }
        idle
    }
}

/// Leases: the fast path.
impl Connection {
    #[inline(always)]
    pub(crate) fn hot(&self) -> &Hot {
        &self.hot
    }

    /// Leases an idle block of a size class, or else sends the caller the [slow
    /// way](Self::lease_slowly). Returns its slot and number.
    #[inline(always)]
    pub(crate) fn lease_cached(&self, class: usize, hold: Hold) -> Option<(SlotRef, u32)> {
        let magazine = &self.magazines[class];
        let slot = magazine.try_lease(hold)?;
        Some((SlotRef::of(magazine, slot), magazine.number(slot)))
    }

    /// As [`lease_cached`](Self::lease_cached), on a stream's account.
    #[inline]
    pub(crate) fn lease_cached_on_stream(
        &self,
        account: &StreamAccount,
        class: usize,
        hold: Hold,
    ) -> Option<(SlotRef, u32)> {
        let (slot, number) = self.lease_cached(class, hold)?;
        let bytes = self.hot.sizes.block_bytes(class) as u64;
        let limit = || self.hot.stream_memory();
        if let Some(in_use) = account.try_enter(bytes, limit) {
            if in_use <= limit() {
                return Some((slot, number));
            }
            // As any return: the stream may have got a class meanwhile, which is charged for these.
            self.give_back(account, bytes);
        }
        self.put_back(class, slot.slot(), hold);
        None
    }

    /// The first magazine of a size class whose address this is, if it is one.
    #[inline(always)]
    pub(crate) fn first_magazine(&self, slot: SlotRef) -> Option<usize> {
        let start = self.magazines.as_ptr().addr();
        let offset = slot.address().addr().wrapping_sub(start);
        (offset < size_of_val(&self.magazines)).then_some(offset / size_of::<Magazine>())
    }

    #[inline(always)]
    pub(crate) fn magazine<'a>(&'a self, home: Home<'a>) -> &'a Magazine {
        match home {
            Home::First(class) => &self.magazines[class],
            Home::Extra(extra) => extra.magazine(),
        }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.magazines[0].word().is_closed()
    }

    pub(crate) fn check_open(&self) -> Result<(), LeaseError> {
        if self.is_closed() { Err(LeaseError::Closed) } else { Ok(()) }
    }
}

/// The record itself.
impl Connection {
    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    pub(crate) fn admitted_tick(&self) -> u32 {
        self.admitted_tick
    }

    fn first_magazines<'a>(&self) -> impl Iterator<Item = Home<'a>> {
        (0..self.hot.sizes.count()).map(Home::First)
    }

    /// Every magazine that may hold a block, or has counted one. The first lease has the record keep
    /// itself, so of a connection that never leased not a magazine is touched.
    fn magazines<'a>(&self, ledger: &'a Ledger) -> impl Iterator<Item = Home<'a>> {
        let count = if ledger.keep.is_some() { self.hot.sizes.count() } else { 0 };
        let first = (0..count).map(Home::First);
        first.chain(ledger.depot().into_iter().flat_map(Depot::iter).map(Home::Extra))
    }

    /// What of the connection's own memory lies idle.
    fn own_idle(&self, ledger: &Ledger) -> Idle {
        let mut idle = self.idle_in(self.first_magazines());
        idle.add(self.extra_idle(ledger));
        idle
    }

    fn extra_idle(&self, ledger: &Ledger) -> Idle {
        let Some(depot) = ledger.depot() else { return Idle::default() };
        let mut idle = self.idle_in(depot.iter_stocked().map(Home::Extra));
        // Far above what the words count.
        idle.moves = idle.moves.wrapping_add(depot.restocks() << 40);
        idle
    }

    fn idle_in<'a>(&self, magazines: impl Iterator<Item = Home<'a>>) -> Idle {
        let mut idle = Idle::default();
        for home in magazines {
            let word = self.magazine(home).word();
            let bytes = u64::from(word.idle().len()) * self.block_bytes(home);
            idle.add(Idle { bytes, moves: word.moves() });
        }
        idle
    }

    /// The size of a magazine's blocks, or of the large lease in it.
    fn block_bytes(&self, home: Home<'_>) -> u64 {
        match home {
            Home::Extra(extra) if extra.is_large() => extra.large_bytes(),
            _ => self.hot.sizes.block_bytes(home.kind()) as u64,
        }
    }
}
