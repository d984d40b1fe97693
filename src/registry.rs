//! Connections by id.
//!
//! A registry is split into shards by serial number. Each shard is a slab: a vector of slots, of
//! which the free ones form a list. The record of a connection knows its slot, so entering, leaving
//! and finding take no search. An id names the serial number, which no other connection ever gets,
//! and the slot to look at first: an id of a connection that left finds nothing, even if its slot is
//! taken again.
//!
//! **Memory follows what is live.** Connections that stay could sit in the last slots of a vector
//! that is otherwise empty. A removal that leaves more than half the slots free therefore also clears
//! the topmost slots: it moves what they hold to free slots below, and pops them. A removal brings
//! "twice the live connections" down by two, so clearing two slots keeps pace, and no removal has to
//! compact a whole shard under its lock. A connection that moved is no longer where its older ids
//! look first, so a small table by serial number has its new slot.
//!
//! **No allocation under the lock.** Where a shard needs other vectors, it says how large, and
//! [`Registry::refit`] makes them before it takes the lock again and drops the old ones after. An
//! allocator may work for milliseconds if many connections were freed just before. It may also fail:
//! then `insert` returns an error and nothing has changed. (The crate `slab` allocates inside its own
//! `insert`, and aborts where there is no memory.)

use std::mem;

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use crate::name::ConnectionId;
use crate::sync::unmodelled::{AtomicU32, Relaxed};
use crate::sync::{Arc, Mutex};
use crate::try_box::OutOfMemory;

#[cfg(not(leasehold_loom))]
const SHARDS: usize = 16;
#[cfg(leasehold_loom)]
const SHARDS: usize = 1;

/// How many slots one reading looks at while it holds a shard's lock.
const PIECE: usize = 256;
/// How many slots a removal clears at most. Two keep pace with removals; the others catch up when
/// there was no memory for it before.
const CLEARED_AT_ONCE: usize = 4;

/// What a connection's record keeps for the registry.
pub(crate) trait Registered {
    /// The number that no other record of this registry ever has.
    fn serial(&self) -> u64;

    /// Where the record stands. Only the registry writes it, under the shard's lock.
    fn slot(&self) -> &AtomicU32;

    /// The id that finds the record. If the record moves meanwhile, the id still finds it, only not
    /// at first sight.
    fn id(&self) -> ConnectionId {
        ConnectionId::new(self.serial(), self.slot().load(Relaxed))
    }
}

/// Every connection that is open or still has memory out.
pub(crate) struct Registry<C> {
    shards: Box<[CachePadded<Mutex<Shard<C>>>]>,
}

impl<C: Registered> Registry<C> {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| CachePadded::new(Mutex::new(Shard::new()))).collect() }
    }

    /// Enters a record, and tells it its slot.
    pub(crate) fn insert(&self, record: &Arc<C>) -> Result<(), OutOfMemory> {
        let shard = self.shard(record.serial());
        let mut entered = shard.lock().insert(record);
        while let Err(wanted) = entered {
            Self::refit(shard, wanted)?;
            entered = shard.lock().insert(record);
        }
        Ok(())
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<Arc<C>> {
        self.shard(id.serial()).lock().find(id).cloned()
    }

    /// Takes a record out. Returns the registry's share in it, for the caller to drop when it holds no
    /// lock; `None` if the record is not registered.
    #[must_use = "a record may not be dropped under a lock"]
    pub(crate) fn remove(&self, record: &C) -> Option<Arc<C>> {
        let shard = self.shard(record.serial());
        let (removed, mut wanted) = shard.lock().remove(record)?;
        // Where there is no memory to shrink into, the shard stays as it is until the next removal.
        while wanted != Wanted::default() && Self::refit(shard, wanted).is_ok() {
            wanted = shard.lock().compact();
        }
        Some(removed)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().live == 0)
    }

    /// Calls `f` with every record, in no order and under no lock. A record that is registered
    /// throughout the call is passed at least once; if it moves meanwhile, perhaps twice.
    ///
    /// Each shard is read in pieces from the top down. A record that stays is either read already or
    /// stands below `unread`: at first because `unread` is above all slots; after a piece because it
    /// was read if it stood there; and in between because a record only ever moves downward.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Arc<C>)) {
        let mut piece = Vec::with_capacity(PIECE);
        for shard in &self.shards {
            let mut unread = usize::MAX;
            while unread > 0 {
                unread = shard.lock().read_below(unread, &mut piece);
                for record in piece.drain(..) {
                    f(&record);
                }
            }
        }
    }

    /// Gives a shard the vectors it wants.
    fn refit(shard: &Mutex<Shard<C>>, wanted: Wanted) -> Result<(), OutOfMemory> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(wanted.slots.unwrap_or(0)).map_err(|_| OutOfMemory)?;
        let mut moved = HashTable::new();
        moved.try_reserve(wanted.moved.unwrap_or(0), |_| 0).map_err(|_| OutOfMemory)?;
        let mut guard = shard.lock();
        if wanted.slots.is_some() {
            guard.replace_slots(&mut slots);
        }
        if wanted.moved.is_some() {
            guard.replace_moved(&mut moved);
        }
        drop(guard);
        Ok(())
    }

    fn shard(&self, serial: u64) -> &Mutex<Shard<C>> {
        &self.shards[(serial % SHARDS as u64) as usize]
    }
}

struct Shard<C> {
    slots: Vec<Slot<C>>,
    /// The first free slot, or [`NONE`].
    free: u32,
    live: usize,
    /// The slots of the records that moved, by serial number.
    moved: HashTable<u32>,
}

/// The capacities that a shard's vectors should have, where they should have others.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    slots: Option<usize>,
    moved: Option<usize>,
}

enum Slot<C> {
    Taken {
        serial: u64,
        record: Arc<C>,
    },
    /// The neighbours in the list of free slots, or [`NONE`].
    Free {
        before: u32,
        after: u32,
    },
}

/// No slot: the records of so many connections would fill a terabyte.
const NONE: u32 = u32::MAX;

/// A connection costs the registry a slot, and a quarter of one that its vector may have in excess.
#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Slot<()>>() == 16);

impl<C: Registered> Shard<C> {
    fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, live: 0, moved: HashTable::new() }
    }

    fn insert(&mut self, record: &Arc<C>) -> Result<(), Wanted> {
        let len = self.slots.len();
        let at = if self.free == NONE { len as u32 } else { self.free };
        if at as usize == len && len == self.slots.capacity() {
            return Err(Wanted { slots: Some(len + spare(len)), moved: None });
        }
        record.slot().store(at, Relaxed);
        let slot = Slot::Taken { serial: record.serial(), record: record.clone() };
        if at as usize == len {
            self.slots.push(slot);
        } else {
            self.unlink(at);
            self.slots[at as usize] = slot;
        }
        self.live += 1;
        Ok(())
    }

    fn find(&self, id: ConnectionId) -> Option<&Arc<C>> {
        let serial = id.serial();
        self.record_at(id.slot(), serial).or_else(|| {
            let is_it = |at: &u32| serial_at(&self.slots, *at) == Some(serial);
            self.record_at(*self.moved.find(spread(serial), is_it)?, serial)
        })
    }

    fn remove(&mut self, record: &C) -> Option<(Arc<C>, Wanted)> {
        let serial = record.serial();
        let at = record.slot().load(Relaxed);
        self.record_at(at, serial)?;
        if !self.moved.is_empty()
            && let Ok(moved) = self.moved.find_entry(spread(serial), |moved| *moved == at)
        {
            moved.remove();
        }
        let removed = self.release(at)?;
        self.live -= 1;
        Some((removed, self.compact()))
    }

    /// Copies the records of at most [`PIECE`] slots, and returns the lowest of these.
    fn read_below(&self, end: usize, piece: &mut Vec<Arc<C>>) -> usize {
        let end = end.min(self.slots.len());
        let start = end.saturating_sub(PIECE);
        piece.extend(self.slots[start..end].iter().filter_map(Slot::record).cloned());
        start
    }

    /// Clears topmost slots while more than half are free. Returns what is too small for that, or
    /// larger than it has to be.
    fn compact(&mut self) -> Wanted {
        for _ in 0..CLEARED_AT_ONCE {
            if self.slots.len() <= 2 * self.live {
                break;
            }
            if let Err(wanted) = self.clear_top() {
                return wanted;
            }
        }
        if self.live == 0 {
            // There may be more, if there was no memory for the table before.
            self.slots.clear();
            self.free = NONE;
        }
        let (len, moved) = (self.slots.len(), self.moved.len());
        let is_large = self.slots.capacity() > len + 2 * spare(len) + SPARE_SLOTS;
        let is_table_large = moved < self.moved.capacity().div_ceil(4);
        Wanted {
            slots: is_large.then_some(len + spare(len)),
            moved: is_table_large.then_some(2 * moved),
        }
    }

    /// Pops the topmost slot. What it holds moves to a free slot, which is below it.
    fn clear_top(&mut self) -> Result<(), Wanted> {
        let top = (self.slots.len() - 1) as u32;
        if matches!(self.slots[top as usize], Slot::Free { .. }) {
            self.unlink(top);
            self.slots.pop();
            return Ok(());
        }
        let moved = self.moved.len();
        if moved == self.moved.capacity() {
            return Err(Wanted { slots: None, moved: Some((moved * 2).max(SPARE_SLOTS)) });
        }
        let to = self.free;
        self.unlink(to);
        self.slots.swap_remove(to as usize);
        let Slot::Taken { serial, record } = &self.slots[to as usize] else { return Ok(()) };
        record.slot().store(to, Relaxed);
        let hash = spread(*serial);
        match self.moved.find_mut(hash, |at| *at == top) {
            Some(at) => *at = to,
            None => {
                self.moved.insert_unique(hash, to, |at| spread_at(&self.slots, *at));
            }
        }
        Ok(())
    }

    /// Moves the slots to `other`, unless so many were added meanwhile that it is too small.
    fn replace_slots(&mut self, other: &mut Vec<Slot<C>>) {
        if other.capacity() >= self.slots.len() {
            other.append(&mut self.slots);
            mem::swap(&mut self.slots, other);
        }
    }

    /// The same, of the table.
    fn replace_moved(&mut self, other: &mut HashTable<u32>) {
        if other.capacity() >= self.moved.len() {
            let hash_at = |at: &u32| spread_at(&self.slots, *at);
            for at in self.moved.drain() {
                other.insert_unique(hash_at(&at), at, hash_at);
            }
            mem::swap(&mut self.moved, other);
        }
    }

    fn record_at(&self, at: u32, serial: u64) -> Option<&Arc<C>> {
        match self.slots.get(at as usize)? {
            Slot::Taken { serial: taken, record } if *taken == serial => Some(record),
            _ => None,
        }
    }

    /// Frees a slot, and puts it first in the list.
    fn release(&mut self, at: u32) -> Option<Arc<C>> {
        self.set_before(self.free, at);
        let free = Slot::Free { before: NONE, after: self.free };
        self.free = at;
        match mem::replace(&mut self.slots[at as usize], free) {
            Slot::Taken { record, .. } => Some(record),
            Slot::Free { .. } => None,
        }
    }

    /// Takes a free slot out of the list.
    fn unlink(&mut self, at: u32) {
        let Slot::Free { before, after } = self.slots[at as usize] else { return };
        self.set_before(after, before);
        if before == NONE {
            self.free = after;
        } else if let Slot::Free { after: next, .. } = &mut self.slots[before as usize] {
            *next = after;
        }
    }

    fn set_before(&mut self, at: u32, to: u32) {
        if let Some(Slot::Free { before, .. }) = self.slots.get_mut(at as usize) {
            *before = to;
        }
    }
}

impl<C> Slot<C> {
    fn record(&self) -> Option<&Arc<C>> {
        match self {
            Slot::Taken { record, .. } => Some(record),
            Slot::Free { .. } => None,
        }
    }
}

/// How many slots a vector has in excess at least, an empty one too: where few connections come and go,
/// no vector is made and dropped for each.
const SPARE_SLOTS: usize = 2;

/// How many slots to have in excess. A quarter: doubling would cost each connection up to a slot
/// more.
fn spare(slots: usize) -> usize {
    (slots / 4).max(SPARE_SLOTS)
}

fn serial_at<C>(slots: &[Slot<C>], at: u32) -> Option<u64> {
    match slots.get(at as usize)? {
        Slot::Taken { serial, .. } => Some(*serial),
        Slot::Free { .. } => None,
    }
}

fn spread_at<C>(slots: &[Slot<C>], at: u32) -> u64 {
    spread(serial_at(slots, at).unwrap_or_default())
}

/// Spreads serial numbers over all 64 bits (Fibonacci hashing). They are ours, not a peer's, so
/// the hash needs no key.
fn spread(serial: u64) -> u64 {
    serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::iter;

    use super::*;

    const EMPTY_BYTES: usize = SHARDS * 3 * SPARE_SLOTS * size_of::<Slot<Record>>();

    struct Record {
        serial: u64,
        slot: AtomicU32,
    }

    impl Registered for Record {
        fn serial(&self) -> u64 {
            self.serial
        }

        fn slot(&self) -> &AtomicU32 {
            &self.slot
        }
    }

    impl Registry<Record> {
        fn enter(&self, serial: u64) -> Arc<Record> {
            let record = Arc::new(Record { serial, slot: AtomicU32::new(0) });
            self.insert(&record).expect("there is memory");
            record
        }

        fn leave(&self, record: &Record) {
            let removed = self.remove(record).expect("it is registered");
            assert_eq!(removed.serial, record.serial);
        }

        fn serials(&self) -> Vec<u64> {
            let mut serials = Vec::new();
            self.for_each(|record| serials.push(record.serial));
            serials.sort_unstable();
            serials
        }

        fn bytes(&self) -> usize {
            self.shards.iter().map(|shard| shard.lock().bytes()).sum()
        }

        fn slots(&self) -> Vec<usize> {
            self.shards.iter().map(|shard| shard.lock().slots.len()).collect()
        }

        fn check(&self) {
            self.shards.iter().for_each(|shard| shard.lock().check());
        }
    }

    impl Shard<Record> {
        fn bytes(&self) -> usize {
            self.slots.capacity() * size_of::<Slot<Record>>() + self.moved.allocation_size()
        }

        /// Every record knows its slot, the list names every free slot once, what is said to have
        /// moved is there, and at most half the slots are free.
        fn check(&self) {
            for (at, slot) in self.slots.iter().enumerate() {
                if let Slot::Taken { serial, record } = slot {
                    let known = record.slot.load(Relaxed) as usize;
                    assert_eq!((*serial, at), (record.serial, known));
                }
            }
            let mut before = NONE;
            let links =
                iter::successors(Some(self.free), |at| match self.slots.get(*at as usize)? {
                    Slot::Free { after, .. } => Some(*after),
                    Slot::Taken { .. } => panic!("a taken slot is in the list of free ones"),
                });
            let mut free = 0;
            for at in links.take_while(|at| *at != NONE) {
                let Slot::Free { before: linked, .. } = self.slots[at as usize] else { panic!() };
                assert_eq!(linked, before);
                before = at;
                free += 1;
            }
            assert_eq!(free + self.live, self.slots.len());
            assert!(self.slots.len() <= 2 * self.live);
            let moved: BTreeSet<u64> =
                self.moved.iter().map(|at| serial_at(&self.slots, *at).expect("taken")).collect();
            assert_eq!(moved.len(), self.moved.len());
        }
    }

    #[test]
    fn random_operations_agree_with_a_plain_map() {
        let registry = Registry::new();
        let mut random = fastrand::Rng::with_seed(1);
        let mut live = BTreeMap::new();
        let mut ids = Vec::new();
        let mut most_moved = 0_usize;
        for serial in 1..=40_000 {
            // It grows for a while, then shrinks, and so on.
            let grows = serial % 10_000 < 5_000;
            if random.u32(..100) < if grows { 90 } else { 50 } {
                let record = registry.enter(serial);
                ids.push(record.id());
                live.insert(serial, record);
            }
            for _ in 0..random.u32(..if grows { 2 } else { 4 }) {
                let from = random.u64(..=serial);
                let Some((&serial, _)) = live.range(from..).next() else { continue };
                let record = live.remove(&serial).unwrap();
                ids.push(record.id());
                let slots = registry.slots();
                registry.leave(&record);
                assert!(registry.remove(&record).is_none());
                let cleared = iter::zip(slots, registry.slots()).map(|(old, new)| old - new);
                assert!(cleared.sum::<usize>() <= 2 * CLEARED_AT_ONCE);
            }
            for _ in 0..4 {
                let id = ids[random.usize(..ids.len())];
                let found = registry.get(id).map(|record| record.serial);
                assert_eq!(found, live.get(&id.serial()).map(|record| record.serial));
            }
            if serial % 500 == 0 {
                registry.check();
                let moved = registry.shards.iter().map(|shard| shard.lock().moved.len());
                most_moved = most_moved.max(moved.sum());
                assert_eq!(registry.serials(), live.keys().copied().collect::<Vec<_>>());
                assert_eq!(registry.is_empty(), live.is_empty());
            }
        }
        assert!(most_moved > 100, "{most_moved} moved at once");
        live.values().for_each(|record| registry.leave(record));
        assert!(registry.is_empty());
        assert!(registry.bytes() <= EMPTY_BYTES);
        assert!(ids.iter().all(|id| registry.get(*id).is_none()));
    }

    #[test]
    fn old_ids_find_what_moved_and_nothing_else() {
        let registry = Registry::new();
        let records: Vec<_> = (1..=10_000).map(|serial| registry.enter(serial)).collect();
        let ids: Vec<_> = records.iter().map(|record| record.id()).collect();
        let (leaving, staying) = records.split_at(9_900);
        leaving.iter().for_each(|record| registry.leave(record));
        let moved =
            iter::zip(staying, &ids[9_900..]).filter(|(now, id)| now.id().slot() != id.slot());
        assert_eq!(moved.count(), staying.len());
        // Slots of those that left are taken again, and so are those of old ids.
        let _late: Vec<_> = (10_001..=20_000).map(|serial| registry.enter(serial)).collect();
        for id in &ids[..9_900] {
            assert!(registry.get(*id).is_none(), "{id}");
        }
        for (record, id) in iter::zip(staying, &ids[9_900..]) {
            let found = registry.get(*id).expect("it stayed");
            assert!(Arc::ptr_eq(&found, record));
            assert!(Arc::ptr_eq(&registry.get(record.id()).expect("it stayed"), record));
        }
    }

    #[test]
    fn the_last_of_a_million_keeps_no_room() {
        let registry = Registry::new();
        let count = 1_000_000;
        let records: Vec<_> = (1..=count).map(|serial| registry.enter(serial)).collect();
        let each = registry.bytes() as f64 / count as f64;
        assert!(each <= 20.1, "{each} bytes each");
        let (last, others) = records.split_last().unwrap();
        let id = last.id();
        for (nth, record) in others.iter().enumerate() {
            registry.leave(record);
            if nth % 50_000 == 0 {
                let live = count as usize - nth;
                let each = registry.bytes() as f64 / live as f64;
                assert!(each <= 64.0, "{each} bytes for each of {live}");
            }
        }
        assert!(Arc::ptr_eq(&registry.get(id).unwrap(), last));
        let bytes = registry.bytes();
        assert!(bytes <= EMPTY_BYTES + 64, "{bytes} bytes");
        registry.leave(last);
        assert!(registry.bytes() <= EMPTY_BYTES);
    }

    /// The callback runs under no lock, so it plays the other threads: it has records enter, leave
    /// and move between and within the pieces.
    #[test]
    fn what_stays_is_read_while_others_come_go_and_move() {
        for seed in 0..20 {
            let registry = Registry::new();
            let mut random = fastrand::Rng::with_seed(seed);
            let records: Vec<_> = (1..=40_000).map(|serial| registry.enter(serial)).collect();
            let (staying, leaving): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|record| record.serial % 7 == 0);
            let leaving = RefCell::new(leaving);
            random.shuffle(&mut leaving.borrow_mut());
            let placed: Vec<_> = staying.iter().map(|record| record.id().slot()).collect();
            let mut serials = 40_001..;
            let mut read = BTreeSet::new();
            registry.for_each(|record| {
                read.insert(record.serial);
                for _ in 0..random.u32(..4) {
                    if let Some(record) = leaving.borrow_mut().pop() {
                        registry.leave(&record);
                    }
                }
                if random.u32(..8) == 0 {
                    leaving
                        .borrow_mut()
                        .extend(serials.next().map(|serial| registry.enter(serial)));
                }
            });
            assert!(staying.iter().all(|record| read.contains(&record.serial)));
            let moved = iter::zip(&staying, placed).filter(|(now, then)| now.id().slot() != *then);
            assert!(moved.count() > 1_000);
            registry.check();
        }
    }

    /// Several threads make vectors for the same shards at once.
    #[test]
    fn threads_that_grow_and_shrink_the_same_shards_lose_nothing() {
        let registry = Registry::new();
        let kept: Vec<_> = std::thread::scope(|scope| {
            let work = |thread: u64| {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut live = Vec::new();
                for round in 0..20 {
                    let serials = (0..2_000).map(|nth| 1 + thread + 4 * (round * 2_000 + nth));
                    live.extend(serials.map(|serial| registry.enter(serial)));
                    random.shuffle(&mut live);
                    for record in live.drain(100..) {
                        registry.leave(&record);
                    }
                }
                live
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut serials: Vec<_> = kept.iter().map(|record| record.serial).collect();
        serials.sort_unstable();
        assert_eq!(registry.serials(), serials);
        kept.iter().for_each(|record| assert!(registry.get(record.id()).is_some()));
        kept.iter().for_each(|record| registry.leave(record));
        assert!(registry.bytes() <= EMPTY_BYTES, "{} bytes", registry.bytes());
    }
}
