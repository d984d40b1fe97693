//! A connection's record: where budgets and memory meet.
//!
//! **Two speeds.** A lease that the connection's own [`Magazine`] can serve is one
//! compare-exchange on its word, and so is its return: no lock, no shared cache line ([`lease`],
//! [`put_borrowed`], [`put`]). Everything else (an empty magazine, a ninth block, a large lease, a
//! reservation, a stream, a bind, a close) takes the connection's mutex, then the scopes above it
//! in their fixed order, then the arena.
//!
//! **Lock order.** stream account ▸ connection ▸ transient ▸ peer ▸ class ▸ system ▸ arena. At most
//! one connection's mutex is held at a time: before a sibling is swept, one's own is let go. No
//! memory is mapped or unmapped, no waker woken, cloned or dropped, and no record dropped under
//! any of them: such work is an [`errand`](attempt), run between two attempts.
//!
//! **Phases.** *Open* ▸ *closed* (once, by the guard or from outside: memory comes back, and
//! everything new is refused) ▸ *gone* (the guard dropped: counts come back, and what was borrowed
//! and forgotten) ▸ forgotten by the registry, once the last pinned or detached block is back.
//!
//! **What keeps a record in memory.** The registry and the ledger's own `keep` do while the guard
//! lives. A `'static` lease holds a bare pointer and costs no reference count: closing counts the
//! leases that are out (*stragglers*), and `keep` stays until the guard is gone and the last of
//! them has dropped. A straggler therefore takes the mutex *before* it gives its block back, and
//! takes a share of `keep` with it for as long as it still works on the record.
//!
//! [`lease`]: Connection::lease
//! [`put_borrowed`]: Connection::put_borrowed
//! [`put`]: Connection::put

mod attempt;
mod close;
mod ledger;
mod loose;

pub(crate) use close::Closer;

use std::panic::Location;
use std::ptr::NonNull;
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use slab::Slab;

use crate::arena::{Arena, Bounds, MAX_CLASSES, Mapping};
use crate::clock::Clock;
use crate::error::{BindError, Closed, LeaseError, Refused, Resource, Scope};
use crate::limits::{Limit, Limits};
use crate::magazine::{Hold, Magazine};
use crate::name::{Direction, PeerKey, Source};
use crate::registry::{Identified, Registry};
use crate::report::{ConnectionUsage, Totals};
use crate::scope::{Place, Tree};
use crate::sync::unmodelled::{AtomicU32, AtomicU64, Relaxed};
use crate::sync::{Arc, Mutex};
use crate::usage::Usage;
use attempt::{Halt, Halted};
use ledger::{Ledger, Phase};
use loose::LooseMemory;

/// What all connections of a governor share.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    pub(crate) tree: Tree<Arc<Connection>>,
    pub(crate) registry: Registry<Connection>,
    /// What connections that ended, or whose counters were full, have counted.
    pub(crate) tallies: CachePadded<Mutex<Tallies>>,
    /// The coarse clock: steps of [`TICK_MS`] since the governor was made.
    pub(crate) tick: AtomicU32,
    /// The memory limit of a stream in force, for the fast path; `u64::MAX` is unlimited.
    stream_memory: AtomicU64,
    clock: Box<dyn Clock>,
    epoch: Duration,
    fragmentation_bytes: Option<u64>,
    /// The highest totals a report has shown.
    shown: Mutex<Tallies>,
}

/// The step of the coarse clock, in milliseconds.
pub(crate) const TICK_MS: u64 = 100;

impl Shared {
    pub(crate) fn new(
        arena: Arena,
        limits: Limits,
        clock: Box<dyn Clock>,
        fragmentation_bytes: Option<u64>,
    ) -> Self {
        Self {
            arena,
            stream_memory: AtomicU64::new(limits.stream.memory.max()),
            tree: Tree::new(limits),
            registry: Registry::new(),
            tallies: CachePadded::new(Mutex::default()),
            tick: AtomicU32::new(0),
            epoch: clock.now(),
            clock,
            fragmentation_bytes,
            shown: Mutex::default(),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        let classes = self.arena.class_count();
        self.arena.set_bounds(Bounds::new(limits.system.memory, classes, self.fragmentation_bytes));
        self.stream_memory.store(limits.stream.memory.max(), Relaxed);
        self.tree.set_limits(limits);
    }

    /// Advances the coarse clock.
    pub(crate) fn read_clock(&self) {
        let elapsed = self.clock.now().saturating_sub(self.epoch);
        self.tick.store((elapsed.as_millis() as u64 / TICK_MS) as u32, Relaxed);
    }

    /// Keeps the counters of `totals` from falling below what was shown before.
    pub(crate) fn raise_floor(&self, totals: &mut Totals) {
        let mut shown = self.shown.lock();
        shown.leased_bytes = shown.leased_bytes.max(totals.leased_bytes);
        shown.returned_bytes = shown.returned_bytes.max(totals.returned_bytes);
        totals.leased_bytes = shown.leased_bytes;
        totals.returned_bytes = shown.returned_bytes;
    }
}

/// Counters that only rise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) leased_bytes: u64,
    pub(crate) returned_bytes: u64,
    pub(crate) admitted: u64,
}

/// One connection.
///
/// The order of the fields keeps what the fast path reads and writes (`shared`, `magazines`) at
/// least a cache line away from both ends, so that no neighbour in memory ever shares a line with
/// it.
#[repr(C)]
pub(crate) struct Connection {
    id: u64,
    site: &'static Location<'static>,
    source: Option<Box<Source>>,
    admitted_tick: u32,
    /// Who waits for the connection to be closed.
    wakers: Mutex<Option<Box<Slab<Waker>>>>,
    shared: Arc<Shared>,
    magazines: [Magazine; MAX_CLASSES],
    ledger: Mutex<Ledger>,
}

#[cfg(not(leasehold_loom))]
const _: () = {
    use std::mem::offset_of;
    // Two reference counts stand before the record.
    const COUNTS: usize = 16;
    assert!(COUNTS + offset_of!(Connection, shared) >= 64);
    let hot_end = offset_of!(Connection, magazines) + size_of::<[Magazine; MAX_CLASSES]>();
    assert!(size_of::<Connection>() - hot_end >= 63);
};

/// Which block a lease has: the key under which its connection knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// In a slot of a magazine.
    Slot { class: u8, slot: u8 },
    /// In the table of what the magazines have no place for.
    Loose { key: u32 },
}

/// A block that was just leased.
pub(crate) struct Granted {
    pub(crate) seat: Seat,
    pub(crate) memory: Memory,
}

/// Where the bytes of a lease are.
pub(crate) enum Memory {
    Block { class: usize, block: u32 },
    Large { base: NonNull<u8>, bytes: usize },
}

/// What a report says of one connection.
pub(crate) struct Audit {
    pub(crate) usage: ConnectionUsage,
    pub(crate) closed: bool,
    pub(crate) gone: bool,
    /// Leased and returned since the counts were last folded into the tallies.
    pub(crate) leased_bytes: u64,
    pub(crate) returned_bytes: u64,
    pub(crate) orphans: Vec<OrphanNote>,
}

/// A block that outlives its connection's guard.
pub(crate) struct OrphanNote {
    pub(crate) site: &'static Location<'static>,
    pub(crate) tick: u32,
    pub(crate) bytes: u64,
}

/// What a connection is admitted as.
pub(crate) struct Terms {
    pub(crate) direction: Direction,
    pub(crate) fd: bool,
    pub(crate) source: Option<Source>,
    pub(crate) place: Place<Arc<Connection>>,
    pub(crate) site: &'static Location<'static>,
}

/// The bytes that the leases and reservations of one stream hold.
///
/// Taken bytes are counted under the lock, which is held while the block itself is obtained, so
/// that no other request ever sees a charge that does not last. Returned bytes are one addition.
pub(crate) struct StreamAccount {
    taken: Mutex<u64>,
    returned: AtomicU64,
}

impl StreamAccount {
    pub(crate) fn new() -> Self {
        Self { taken: Mutex::new(0), returned: AtomicU64::new(0) }
    }

    /// Counts bytes as given back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.returned.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn in_use(&self) -> u64 {
        let taken = self.taken.lock();
        taken.wrapping_sub(self.returned.load(Relaxed))
    }

    fn check(&self, taken: u64, bytes: u64, limit: u64) -> Result<(), Refused> {
        let in_use = taken.wrapping_sub(self.returned.load(Relaxed));
        let limit = if limit == u64::MAX { Limit::Unlimited } else { Limit::Max(limit) };
        if limit.admits(in_use, bytes) {
            return Ok(());
        }
        Err(Refused::new(Scope::Stream, Resource::Memory, limit, in_use, bytes))
    }
}

impl Identified for Connection {
    fn id(&self) -> u64 {
        self.id
    }
}

/// Leases: the fast path.
impl Connection {
    /// Leases a block of at least `len` bytes.
    #[inline]
    pub(crate) fn lease(&self, len: usize, hold: Hold) -> Result<Granted, LeaseError> {
        match self.lease_cached(len, hold) {
            Some(granted) => Ok(granted),
            None => self.lease_slowly(len, hold, None),
        }
    }

    /// Leases a block of at least `len` bytes on a stream's account.
    #[inline]
    pub(crate) fn lease_on_stream(
        &self,
        account: &StreamAccount,
        len: usize,
        hold: Hold,
    ) -> Result<Granted, LeaseError> {
        if let Some(class) = self.shared.arena.class_for(len) {
            let bytes = self.shared.arena.block_bytes(class) as u64;
            let mut taken = account.taken.lock();
            let limit = self.shared.stream_memory.load(Relaxed);
            if account.check(*taken, bytes, limit).is_ok()
                && let Some(granted) = self.lease_cached(len, hold)
            {
                *taken = taken.wrapping_add(bytes);
                return Ok(granted);
            }
        }
        self.lease_slowly(len, hold, Some(account))
    }

    #[inline(always)]
    fn lease_cached(&self, len: usize, hold: Hold) -> Option<Granted> {
        let class = self.shared.arena.class_for(len)?;
        let magazine = &self.magazines[class];
        let slot = magazine.try_lease(hold)?;
        Some(Granted {
            seat: Seat::Slot { class: class as u8, slot: slot as u8 },
            memory: Memory::Block { class, block: magazine.block(slot) },
        })
    }

    /// Returns what a `Lease<'_>` had. The guard is alive, since the lease borrows it.
    #[inline]
    pub(crate) fn put_borrowed(&self, seat: Seat) {
        match seat {
            Seat::Slot { class, slot } => {
                let before = self.magazines[class as usize].put_borrowed(slot as usize);
                if before.wants_slow_return() {
                    self.flush_returned(class as usize, before.is_closed());
                }
            }
            Seat::Loose { .. } => drop(self.put_slowly(seat)),
        }
    }

    /// Returns what a `'static` lease had. The answer keeps this record in memory, and is dropped
    /// after the last use of `self`.
    #[inline]
    #[must_use = "the record may go with it: drop it after the last use of the reference"]
    pub(crate) fn put(&self, seat: Seat, hold: Hold) -> Option<Arc<Connection>> {
        if let Seat::Slot { class, slot } = seat
            && self.magazines[class as usize].try_put(slot as usize, hold)
        {
            return None;
        }
        self.put_slowly(seat)
    }

    /// Changes how a block is held that a close may have taken. `false`: it has.
    #[inline]
    pub(crate) fn try_rehold(&self, seat: Seat, from: Hold, to: Hold) -> bool {
        match seat {
            Seat::Slot { class, slot } => {
                self.magazines[class as usize].try_rehold(slot as usize, from, to)
            }
            Seat::Loose { key } => self.rehold_loose(key, to),
        }
    }

    /// Lets go of a pin. If the connection closed meanwhile, the block comes back here.
    #[inline]
    pub(crate) fn unpin(&self, seat: Seat) {
        match seat {
            Seat::Slot { class, slot } => {
                let magazine = &self.magazines[class as usize];
                if magazine.rehold(slot as usize, Hold::Pinned, Hold::Owned).is_closed() {
                    self.reclaim_unpinned(seat);
                }
            }
            Seat::Loose { key } => {
                if !self.rehold_loose(key, Hold::Owned) {
                    self.reclaim_unpinned(seat);
                }
            }
        }
    }

    /// Turns a borrowed or pinned block into one that lives on as `Bytes`.
    pub(crate) fn detach(&self, seat: Seat, from: Hold) {
        match seat {
            Seat::Slot { class, slot } => {
                self.magazines[class as usize].rehold(slot as usize, from, Hold::Detached);
            }
            Seat::Loose { key } => {
                if let Some(lease) = self.ledger.lock().loose_mut(key) {
                    lease.hold = Hold::Detached;
                }
            }
        }
    }

    /// Pins a borrowed block for good, whether or not the connection is closed.
    pub(crate) fn pin_borrowed(&self, seat: Seat) {
        match seat {
            Seat::Slot { class, slot } => {
                let magazine = &self.magazines[class as usize];
                magazine.rehold(slot as usize, Hold::Borrowed, Hold::Pinned);
            }
            Seat::Loose { key } => {
                if let Some(lease) = self.ledger.lock().loose_mut(key) {
                    lease.hold = Hold::Pinned;
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
        match ledger.loose_mut(key) {
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

    /// Notes who leased a large block.
    pub(crate) fn note_large(&self, seat: Seat, site: &'static Location<'static>, tick: u32) {
        if let Seat::Loose { key } = seat
            && let Some(lease) = self.ledger.lock().loose_mut(key)
            && let LooseMemory::Large { note, .. } = &lease.memory
        {
            note.write(site, tick);
        }
    }

    /// Who leased the block, which the caller holds.
    pub(crate) fn site_of(&self, seat: Seat) -> Option<&'static Location<'static>> {
        let arena = &self.shared.arena;
        let note = match seat {
            Seat::Slot { class, slot } => {
                let class = class as usize;
                arena.note(class, self.magazines[class].block(slot as usize))
            }
            Seat::Loose { key } => self.ledger.lock().loose_mut(key)?.note(arena),
        };
        note.map(|(site, _)| site)
    }
}

/// Everything about a connection that is not a lease.
impl Connection {
    /// Makes a record that is charged for nothing and known to nobody.
    pub(crate) fn new(shared: Arc<Shared>, terms: Terms) -> Arc<Self> {
        let id = shared.registry.next_id();
        let admitted_tick = shared.tick.load(Relaxed);
        let connection = Arc::new(Self {
            id,
            site: terms.site,
            source: terms.source.map(Box::new),
            admitted_tick,
            wakers: Mutex::new(None),
            shared,
            magazines: std::array::from_fn(|_| Magazine::new()),
            ledger: Mutex::new(Ledger::new(terms.place, terms.direction, terms.fd)),
        });
        connection.ledger.lock().keep = Some(connection.clone());
        connection
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    pub(crate) fn source(&self) -> Option<&Source> {
        self.source.as_deref()
    }

    pub(crate) fn admitted_tick(&self) -> u32 {
        self.admitted_tick
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.magazines[0].word().is_closed()
    }

    /// Charges the connection itself and enters it in the registry; or charges nothing.
    pub(crate) fn admit(this: &Arc<Self>, weight_bytes: u64) -> Result<(), Refused> {
        let admitted = this.run(|errand| {
            let mut ledger = this.ledger.lock();
            let more = Usage { memory: weight_bytes, ..ledger.counts() };
            this.charge(&mut ledger, &more, errand)?;
            ledger.admitted = true;
            ledger.reserved += weight_bytes;
            Ok(())
        });
        match admitted {
            Ok(()) => {
                this.shared.registry.insert(this.clone());
                this.shared.tallies.lock().admitted += 1;
                Ok(())
            }
            Err(Halted::Refused(refused)) => {
                this.abandon();
                Err(refused)
            }
            Err(Halted::Closed) => unreachable!("nobody knows the connection, so nobody closed it"),
        }
    }

    /// Gives up a record that was never admitted.
    fn abandon(&self) {
        let mut ledger = self.ledger.lock();
        let (peer, class) = (ledger.place.peer.take(), ledger.place.class.take());
        let keep = ledger.keep.take();
        drop(ledger);
        self.release(peer, class);
        drop(keep);
    }

    /// Moves everything the connection has from the transient scope to a peer's.
    pub(crate) fn bind(&self, key: &[u8]) -> Result<(), BindError> {
        let peer = self.shared.tree.peer(key)?;
        let bound = self.run(|errand| {
            let mut guard = self.ledger.lock();
            let ledger = &mut *guard;
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            if ledger.place.peer.is_some() {
                return Ok(false);
            }
            loop {
                let usage = ledger.usage();
                let tree = &self.shared.tree;
                match tree.bind(&ledger.place, &peer, &usage, &mut ledger.listing) {
                    Ok(()) => break,
                    Err(_) if self.flush(ledger) > 0 => {}
                    Err((refused, victim)) => {
                        return Err(errand.overcome(refused, victim, Some(&peer), None));
                    }
                }
            }
            ledger.place.peer = Some(peer.clone());
            Ok(true)
        });
        match bound {
            Ok(true) => return Ok(()),
            Ok(false) => self.release(Some(peer), None),
            Err(error) => {
                self.release(Some(peer), None);
                return Err(match error {
                    Halted::Refused(refused) => BindError::Refused(refused),
                    Halted::Closed => BindError::Closed,
                });
            }
        }
        Err(BindError::AlreadyBound)
    }

    /// Charges bytes that someone else allocates.
    pub(crate) fn reserve(
        &self,
        account: Option<&StreamAccount>,
        bytes: u64,
    ) -> Result<(), LeaseError> {
        let reserved = self.run(|errand| {
            let account = self.enter(account, bytes)?;
            let mut ledger = self.ledger.lock();
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            self.charge(&mut ledger, &Usage::of_memory(bytes), errand)?;
            ledger.reserved += bytes;
            drop(ledger);
            account.commit();
            Ok(())
        });
        reserved.map_err(LeaseError::from)
    }

    /// Takes a reservation off again, unless a close already did.
    pub(crate) fn unreserve(&self, account: Option<&StreamAccount>, bytes: u64) {
        if let Some(account) = account {
            account.give_back(bytes);
        }
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase == Phase::Open {
            ledger.reserved -= bytes;
            ledger.memory -= bytes;
            self.shared.tree.line(&ledger.place).credit(&Usage::of_memory(bytes));
        }
    }

    /// Counts one more stream.
    pub(crate) fn open_stream(&self, direction: Direction) -> Result<(), LeaseError> {
        let opened = self.run(|errand| {
            let mut ledger = self.ledger.lock();
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            self.charge(&mut ledger, &one_stream(direction), errand)?;
            *ledger.streams_mut(direction) += 1;
            Ok(())
        });
        opened.map_err(LeaseError::from)
    }

    /// Counts one stream less, unless the guard's end already did.
    pub(crate) fn close_stream(&self, direction: Direction) {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Gone {
            *ledger.streams_mut(direction) -= 1;
            self.shared.tree.line(&ledger.place).credit(&one_stream(direction));
        }
    }

    /// Gives idle cached blocks back, and answers how many bytes that was.
    pub(crate) fn trim(&self) -> u64 {
        let mut ledger = self.ledger.lock();
        let bytes = self.flush(&mut ledger);
        self.fold(&mut ledger);
        drop(ledger);
        self.shared.arena.settle();
        bytes
    }

    pub(crate) fn usage(&self) -> Result<ConnectionUsage, Closed> {
        let ledger = self.ledger.lock();
        if ledger.phase == Phase::Open { Ok(self.usage_of(&ledger)) } else { Err(Closed) }
    }

    pub(crate) fn check_open(&self) -> Result<(), LeaseError> {
        if self.is_closed() { Err(LeaseError::Closed) } else { Ok(()) }
    }

    /// What the connection uses, closed or not.
    pub(crate) fn usage_now(&self) -> ConnectionUsage {
        self.usage_of(&self.ledger.lock())
    }

    /// What a report says of the connection: its use, its orphans, and what it has leased and
    /// returned since its counts were last folded.
    pub(crate) fn audit(&self) -> Audit {
        let ledger = self.ledger.lock();
        let (leased_bytes, returned_bytes) = self.unfolded(&ledger);
        let orphans = match ledger.phase {
            Phase::Gone => self.outstanding_notes(&ledger),
            Phase::Open | Phase::Closed => Vec::new(),
        };
        Audit {
            usage: self.usage_of(&ledger),
            closed: ledger.phase != Phase::Open,
            gone: ledger.phase == Phase::Gone,
            leased_bytes,
            returned_bytes,
            orphans,
        }
    }

    /// Registers a waker for the close, or says that it has happened.
    pub(crate) fn poll_closed(&self, key: &mut Option<usize>, waker: &Waker) -> bool {
        if self.is_closed() {
            return true;
        }
        // Cloned before the lock, and the replaced one dropped after it: both may run any code.
        let mut new = Some(waker.clone());
        let mut wakers = self.wakers.lock();
        let list = wakers.get_or_insert_default();
        match key.and_then(|key| list.get_mut(key)) {
            Some(old) => std::mem::swap(old, new.as_mut().expect("just cloned")),
            None => *key = new.take().map(|waker| list.insert(waker)),
        }
        drop(wakers);
        drop(new);
        // A close that came before the registration has taken the list already.
        self.is_closed()
    }

    /// Forgets a waker.
    pub(crate) fn forget_waker(&self, key: usize) {
        let mut wakers = self.wakers.lock();
        let forgotten = wakers.as_mut().and_then(|list| list.try_remove(key));
        let list = wakers.take_if(|list| list.is_empty());
        drop(wakers);
        drop((forgotten, list));
    }

    fn usage_of(&self, ledger: &Ledger) -> ConnectionUsage {
        let mut usage = ConnectionUsage {
            peer: ledger.place.peer.as_ref().map(|peer| PeerKey::of_bounded(peer.key())),
            memory: ledger.memory,
            reserved_bytes: ledger.reserved,
            streams_inbound: ledger.streams_inbound,
            streams_outbound: ledger.streams_outbound,
            ..ConnectionUsage::default()
        };
        for (class, magazine) in self.magazines() {
            let word = magazine.word();
            let bytes = |blocks: u32| u64::from(blocks) * self.block_bytes(class);
            let (outstanding, detached) = (word.outstanding().len(), word.detached().len());
            usage.cached_bytes += bytes(word.cached().len());
            usage.leased_bytes += bytes(outstanding - detached);
            usage.detached_bytes += bytes(detached);
        }
        for lease in ledger.loose_leases() {
            let bytes = lease.bytes(&self.shared.arena);
            match lease.hold {
                Hold::Detached => usage.detached_bytes += bytes,
                Hold::Borrowed | Hold::Owned | Hold::Pinned => usage.leased_bytes += bytes,
            }
        }
        usage
    }

    /// Site and age of every block that is out. Its slab stays mapped while the ledger is locked.
    fn outstanding_notes(&self, ledger: &Ledger) -> Vec<OrphanNote> {
        let mut notes = Vec::new();
        for (class, magazine) in self.magazines() {
            for slot in magazine.word().outstanding() {
                if let Some((site, tick)) = self.shared.arena.note(class, magazine.block(slot)) {
                    notes.push(OrphanNote { site, tick, bytes: self.block_bytes(class) });
                }
            }
        }
        for lease in ledger.loose_leases() {
            if let Some((site, tick)) = lease.note(&self.shared.arena) {
                notes.push(OrphanNote { site, tick, bytes: lease.bytes(&self.shared.arena) });
            }
        }
        notes
    }

    /// The magazines that have a class.
    fn magazines(&self) -> impl Iterator<Item = (usize, &Magazine)> {
        self.magazines.iter().enumerate().take(self.shared.arena.class_count())
    }

    fn block_bytes(&self, class: usize) -> u64 {
        self.shared.arena.block_bytes(class) as u64
    }
}

fn one_stream(direction: Direction) -> Usage {
    match direction {
        Direction::Inbound => Usage { streams_inbound: 1, ..Usage::default() },
        Direction::Outbound => Usage { streams_outbound: 1, ..Usage::default() },
    }
}
