//! A connection's record: where budgets and memory meet.
//!
//! **Two speeds.** A lease that the connection's own [`Magazine`] can serve is one
//! compare-exchange on its word, and so is its return: no lock, no shared cache line
//! ([`lease_cached`], [`put_borrowed`], [`try_put`]). Everything else (an empty magazine, a ninth
//! block, a large lease, a reservation, a stream, a bind, a close) takes the connection's mutex, then
//! the scope tree's, then the arena's.
//!
//! **Lock order.** stream account ▸ connection ▸ scope tree ▸ arena. At most one
//! connection's mutex is held at a time: before a sibling is swept, one's own is let go. No
//! memory is mapped or unmapped, no waker woken, cloned or dropped, and no record dropped under
//! any of them: such work is an [`errand`], run between two attempts.
//!
//! **Phases.** *Open* ▸ *closed* (once, by the guard or from outside: memory comes back, and
//! everything new is refused) ▸ *gone* (the guard dropped: counts come back, and what was borrowed
//! and forgotten) ▸ forgotten by the registry, once the last pinned or detached block is back.
//!
//! **What keeps a record in memory.** The registry and, from the first lease on, the ledger's own
//! `keep` do while the guard lives. A `'static` lease holds a bare pointer and costs no reference
//! count: closing counts the leases that are out (*stragglers*), and `keep` stays until the guard is
//! gone and the last of them has dropped. A straggler therefore takes the mutex *before* it gives its block back, and
//! takes a share of `keep` with it for as long as it still works on the record.
//!
//! [`lease_cached`]: Connection::lease_cached
//! [`put_borrowed`]: Connection::put_borrowed
//! [`try_put`]: Magazine::try_put

mod account;
mod admit;
mod audit;
mod charges;
mod close;
mod errand;
mod ledger;
mod lend;
mod loose;
mod remote;
mod seat;
mod shared;
mod source;
mod wakers;
mod weigh;

use std::panic::Location;
use std::ptr::NonNull;

use crate::arena::{MAX_CLASSES, Mapping};
use crate::error::LeaseError;
use crate::magazine::{Hold, Magazine};
use crate::name::{Direction, Source};
use crate::registry::Identified;
use crate::scope::{Line, Standing};
use crate::sync::{Arc, Mutex, MutexGuard};
pub(crate) use account::StreamAccount;
pub(crate) use audit::Audit;
pub(crate) use close::Closer;
use errand::Halt;
use ledger::{Ledger, Phase};
use remote::Remote;
pub(crate) use seat::Seat;
use seat::Spot;
pub(crate) use shared::{Shared, TICK_MS};

/// One connection.
///
/// The order of the fields keeps what the fast path reads and writes (`shared`, `magazines`) so far
/// from both ends that no neighbour in memory ever shares a cache line with it.
#[repr(C)]
pub(crate) struct Connection {
    id: u64,
    site: &'static Location<'static>,
    admitted_tick: u32,
    /// Where it comes from, unless the ledger says otherwise.
    remote: Remote,
    shared: Arc<Shared>,
    magazines: [Magazine; MAX_CLASSES],
    ledger: Mutex<Ledger>,
}

#[cfg(not(leasehold_loom))]
const _: () = {
    use std::mem::offset_of;
    // Two reference counts stand before the record, which begins at a multiple of eight.
    const COUNTS: usize = 16;
    assert!(COUNTS + offset_of!(Connection, shared) >= 56);
    let hot_end = offset_of!(Connection, magazines) + size_of::<[Magazine; MAX_CLASSES]>();
    assert!(size_of::<Connection>() - hot_end >= 63);
    // And a registry's entry, at most 21 bytes, beside it: see `tests/idle.rs`.
    assert!(COUNTS + size_of::<Connection>() <= 360);
};

/// The scopes above a connection, locked.
type Above<'a> = Line<'a, Arc<Connection>>;

/// A block that was leased the slow way.
pub(crate) struct Granted {
    pub(crate) seat: Seat,
    pub(crate) memory: Memory,
}

/// Where the bytes of a lease are.
pub(crate) enum Memory {
    Block { class: usize, block: u32 },
    Large { base: NonNull<u8>, bytes: usize },
}

/// What a connection is to be admitted as.
pub(crate) struct Terms<'a> {
    pub(crate) direction: Direction,
    pub(crate) fd: bool,
    pub(crate) weight_bytes: u64,
    pub(crate) source: Option<Source>,
    pub(crate) peer: Option<&'a [u8]>,
    pub(crate) class: Option<&'a str>,
    pub(crate) site: &'static Location<'static>,
}

impl Identified for Connection {
    fn id(&self) -> u64 {
        self.id
    }
}

/// Leases: the fast path.
impl Connection {
    /// Leases a cached block of a class, or else sends the caller the [slow
    /// way](Self::lease_slowly).
    #[inline(always)]
    pub(crate) fn lease_cached(&self, class: usize, hold: Hold) -> Option<(Seat, u32)> {
        let magazine = &self.magazines[class];
        let slot = magazine.try_lease(hold)?;
        Some((Seat::slot(class, slot), magazine.block(slot)))
    }

    /// As [`lease_cached`](Self::lease_cached), on a stream's account.
    #[inline]
    pub(crate) fn lease_cached_on_stream(
        &self,
        account: &StreamAccount,
        class: usize,
        hold: Hold,
    ) -> Option<(Seat, u32)> {
        let entry = account.try_enter(self.block_bytes(class), || self.shared.stream_memory())?;
        let leased = self.lease_cached(class, hold)?;
        entry.commit();
        Some(leased)
    }

    /// Returns what a `Lease<'_>` had. The guard is alive, since the lease borrows it.
    #[inline]
    pub(crate) fn put_borrowed(&self, seat: Seat) {
        match seat.spot() {
            Spot::Slot { class, slot } => {
                let before = self.magazines[class].put_borrowed(slot);
                if before.wants_slow_return() {
                    self.flush_returned(class, before);
                }
            }
            Spot::Loose { .. } => self.put_loose_borrowed(seat),
        }
    }

    /// The magazine and slot of a block, unless it is loose.
    #[inline]
    pub(crate) fn slot_of(&self, seat: Seat) -> Option<(&Magazine, usize)> {
        match seat.spot() {
            Spot::Slot { class, slot } => Some((&self.magazines[class], slot)),
            Spot::Loose { .. } => None,
        }
    }

    /// Changes how a block is held that a close may have taken. `false`: it has.
    #[inline]
    pub(crate) fn try_rehold(&self, seat: Seat, from: Hold, to: Hold) -> bool {
        match seat.spot() {
            Spot::Slot { class, slot } => self.magazines[class].try_rehold(slot, from, to),
            Spot::Loose { key } => self.rehold_loose(key, to),
        }
    }

    /// Lets go of a pin. If the connection closed meanwhile, the block comes back here.
    #[inline]
    pub(crate) fn unpin(&self, seat: Seat) {
        match seat.spot() {
            Spot::Slot { class, slot } => {
                let magazine = &self.magazines[class];
                if magazine.rehold(slot, Hold::Pinned, Hold::Owned).is_closed() {
                    self.reclaim_unpinned(seat);
                }
            }
            Spot::Loose { key } => {
                if !self.rehold_loose(key, Hold::Owned) {
                    self.reclaim_unpinned(seat);
                }
            }
        }
    }

    /// Changes how a block is held that a close leaves alone.
    pub(crate) fn rehold(&self, seat: Seat, from: Hold, to: Hold) {
        match seat.spot() {
            Spot::Slot { class, slot } => {
                self.magazines[class].rehold(slot, from, to);
            }
            Spot::Loose { key } => {
                if let Some(lease) = self.ledger.lock().loose_lease_mut(key) {
                    lease.hold = to;
                }
            }
        }
    }

    /// Turns a borrowed lease into an owned one. If the connection is closed already, the block
    /// comes back here and the owned lease starts out revoked.
    pub(crate) fn own(&self, seat: Seat) {
        if !self.try_rehold(seat, Hold::Borrowed, Hold::Owned) {
            self.reclaim_unpinned(seat);
        }
    }

    fn rehold_loose(&self, key: u32, to: Hold) -> bool {
        let mut ledger = self.ledger.lock();
        let open = ledger.phase == Phase::Open;
        match ledger.loose_lease_mut(key) {
            Some(lease) if open => {
                lease.hold = to;
                true
            }
            _ => false,
        }
    }
}

/// Where leases were made, and how large they come.
impl Connection {
    /// The capacity of a lease of `len` bytes.
    pub(crate) fn capacity_for(&self, len: usize) -> Option<usize> {
        let arena = &self.shared.arena;
        match arena.class_for(len) {
            Some(class) => Some(arena.block_bytes(class)),
            None => Mapping::round_up(len),
        }
    }

    /// Whether a lease of this capacity has a block, and not a mapping of its own, which needs no
    /// wiping: the system never shows it to anyone again.
    pub(crate) fn is_block(&self, capacity: usize) -> bool {
        self.shared.arena.class_for(capacity).is_some()
    }

    /// Who leased the block, which the caller holds.
    pub(crate) fn site_of(&self, seat: Seat) -> Option<&'static Location<'static>> {
        let arena = &self.shared.arena;
        let note = match seat.spot() {
            Spot::Slot { class, slot } => arena.note(class, self.magazines[class].block(slot)),
            Spot::Loose { key } => self.ledger.lock().loose_lease_mut(key)?.note(arena),
        };
        note.map(|(site, _)| site)
    }
}

/// The record itself.
impl Connection {
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    pub(crate) fn admitted_tick(&self) -> u32 {
        self.admitted_tick
    }

    pub(crate) fn check_open(&self) -> Result<(), LeaseError> {
        if self.is_closed() { Err(LeaseError::Closed) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.magazines[0].word().is_closed()
    }

    /// The ledger, for whoever asks for something, which only an open connection grants.
    fn lock_open(&self) -> Result<MutexGuard<'_, Ledger>, Halt> {
        let ledger = self.ledger.lock();
        if ledger.phase == Phase::Open { Ok(ledger) } else { Err(Halt::Closed) }
    }

    /// Every scope above the connection, locked.
    fn line(&self, ledger: &Ledger) -> Above<'_> {
        let standing = match ledger.phase {
            Phase::Open | Phase::Closed => Standing::Present,
            Phase::Gone => Standing::Departed,
        };
        self.shared.tree.line(ledger.place, standing)
    }

    /// The magazines that have a class.
    fn magazines(&self) -> impl Iterator<Item = (usize, &Magazine)> {
        self.magazines.iter().enumerate().take(self.shared.arena.class_count())
    }

    fn block_bytes(&self, class: usize) -> u64 {
        self.shared.arena.block_bytes(class) as u64
    }
}
