//! Eight blocks of one size class, kept by one connection, and the one word that says everything
//! about them.
//!
//! ```text
//! 63      62     61 ─ 47   46 ─ 32   31 ─ 24    23 ─ 16  15 ─ 8   7 ─ 0
//! closed  slow   leases    returns   occupied   free     owned    pinned
//! ```
//!
//! **States.** Bit *n* of each of the four bytes belongs to slot *n*:
//!
//! | occupied | free | owned | pinned | the slot is | a close |
//! |---|---|---|---|---|---|
//! | 0 | – | – | – | vacant: it holds no block | |
//! | 1 | 1 | 0 | 0 | idle: ready to be leased | takes it |
//! | 1 | 0 | 0 | 0 | borrowed: a `Lease<'_>` has it, whose guard outlives it | leaves it |
//! | 1 | 0 | 1 | 0 | owned: an `OwnedLease` has it, no thread touches its bytes | takes it: the lease is revoked |
//! | 1 | 0 | 1 | 1 | pinned: an `OwnedLease` or a `PinnedLease` touches its bytes | leaves it to the unpin |
//! | 1 | 0 | 0 | 1 | detached: a `Bytes` has it | leaves it to the last clone |
//!
//! **Transitions.** Each is one read-modify-write of the whole word, so all of them stand in one
//! total order and every one of them learns whether the magazine was closed before it:
//!
//! ```text
//!              lease                 into_owned            pin
//!     idle ───────────▶ borrowed ───────────────▶ owned ◀───────▶ pinned
//!     ▲ ▲ ▲    return       │                       │ ▲   unpin      │
//!     │ │ └─────────────────┤ freeze                │ └── lease owned│
//!     │ └───────────────────│───────────────────────┴────────────────┤ freeze
//!     └──── last Bytes ── detached ◀─────────────────────────────────┘
//! ```
//!
//! **Close** is one of them too: a single step sets *closed* and vacates every slot that is idle or
//! owned-but-not-pinned. The closer returns exactly those blocks. From then on *occupied* says that a
//! block is still out, and each of those has exactly one party left to return it: the borrowed
//! lease's drop, the unpin, or the drop of the pinned lease or the `Bytes`. When the guard itself
//! goes no borrow can be alive, so what is still borrowed was forgotten, and is taken too.
//!
//! **Slow** sends leases and returns to the connection's mutex. The mark is set and cleared under the
//! mutex only: on a connection that may keep no blocks, and on a [further](Extra) magazine that has
//! none to lease. A sweep is one step as well: it vacates what is idle and sets *slow*, so that
//! nothing returns behind its back.
//!
//! **Counting.** *leases* and *returns* count in the same step that hands out or takes back. The
//! top bit of *leases* is the *wrap* mark: leases then go the slow way, which folds both counts
//! into the governor's totals. Between two folds there are at most 2¹⁴ leases and so 2¹⁴ + 8
//! returns, which 15 bits hold.
//!
//! Methods marked *locked* are called with the connection's mutex held, all others by the party that
//! the table names. No method here touches a budget or the arena.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::arena::{Block, BlockCell, Mapping, Note};
use crate::ranges::MAX_SIZE_CLASSES;
use crate::sync::unmodelled::{AtomicU8, AtomicU32, Relaxed};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::try_box::{OutOfMemory, TryBox};

/// Blocks that a magazine holds.
#[cfg(not(leasehold_loom))]
pub(crate) const SLOTS: usize = 8;
/// Blocks that a magazine holds: so few that a model with three leases reaches a further one.
#[cfg(leasehold_loom)]
pub(crate) const SLOTS: usize = 2;

/// Every slot.
const ALL: u8 = u8::MAX >> (8 - SLOTS);

/// How a lease holds its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Hold {
    Borrowed,
    Owned,
    Pinned,
    Detached,
}

impl Hold {
    /// The bits of a slot that is held in this way.
    #[inline(always)]
    const fn bits(self, slot: usize) -> u64 {
        let bit = 1 << slot;
        match self {
            Hold::Borrowed => 0,
            Hold::Owned => bit << OWNED,
            Hold::Pinned => bit << OWNED | bit << PINNED,
            Hold::Detached => bit << PINNED,
        }
    }
}

/// The packed word of a magazine; see the module's docs for its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(u64);

const PINNED: u32 = 0;
const OWNED: u32 = 8;
const FREE: u32 = 16;
const OCCUPIED: u32 = 24;
const RETURNS: u32 = 32;
const LEASES: u32 = 47;
const COUNT_MASK: u64 = 0x7fff;
const COUNTS: u64 = COUNT_MASK << LEASES | COUNT_MASK << RETURNS;
const ONE_LEASE: u64 = 1 << LEASES;
const ONE_RETURN: u64 = 1 << RETURNS;
const WRAP: u64 = 1 << 61;
const SLOW: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

impl Word {
    /// Leases must go the slow way.
    #[inline(always)]
    fn is_barred(self) -> bool {
        self.0 & (CLOSED | SLOW | WRAP) != 0
    }

    /// Returns must go the slow way.
    #[inline(always)]
    fn wants_slow_return(self) -> bool {
        self.0 & (CLOSED | SLOW) != 0
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// The next lease has to fold the counts first.
    pub(crate) fn wants_fold(self) -> bool {
        self.0 & WRAP != 0
    }

    pub(crate) fn leases(self) -> u64 {
        self.0 >> LEASES & COUNT_MASK
    }

    pub(crate) fn returns(self) -> u64 {
        self.0 >> RETURNS & COUNT_MASK
    }

    #[inline(always)]
    const fn byte(self, field: u32) -> u8 {
        (self.0 >> field) as u8
    }

    /// No slot holds a block.
    pub(crate) fn is_vacant(self) -> bool {
        self.byte(OCCUPIED) == 0
    }

    /// Slots whose block is idle.
    pub(crate) fn idle(self) -> Slots {
        Slots(self.byte(OCCUPIED) & self.byte(FREE))
    }

    /// Slots whose block is out, however it is held.
    pub(crate) fn outstanding(self) -> Slots {
        Slots(self.byte(OCCUPIED) & !self.byte(FREE))
    }

    /// Slots whose block is borrowed.
    pub(crate) fn borrowed(self) -> Slots {
        Slots(self.outstanding().0 & !self.byte(OWNED) & !self.byte(PINNED))
    }

    /// Slots whose block is owned and not pinned: what a close may take from its holder.
    pub(crate) fn revocable(self) -> Slots {
        Slots(self.outstanding().0 & self.byte(OWNED) & !self.byte(PINNED))
    }

    /// Slots whose block a thread touches through an owned lease.
    pub(crate) fn pinned(self) -> Slots {
        Slots(self.outstanding().0 & self.byte(OWNED) & self.byte(PINNED))
    }

    /// Slots whose block lives on as `Bytes`.
    pub(crate) fn detached(self) -> Slots {
        Slots(self.outstanding().0 & !self.byte(OWNED) & self.byte(PINNED))
    }

    /// An idle block is leased.
    #[inline(always)]
    fn lease(self, slot: usize, hold: Hold) -> Word {
        Word(self.0 - (1 << slot << FREE) + hold.bits(slot) + ONE_LEASE)
    }

    /// A leased block comes to lie idle.
    #[inline(always)]
    fn put(self, slot: usize, hold: Hold) -> Word {
        Word(self.0 - hold.bits(slot) + (1 << slot << FREE) + ONE_RETURN)
    }

    fn vacate(self, slots: Slots) -> Word {
        let gone = u64::from(slots.0);
        Word(self.0 & !(gone << OCCUPIED | gone << FREE | gone << OWNED | gone << PINNED))
    }
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots(u8);

impl Slots {
    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn of(slot: usize) -> Self {
        Self(1 << slot)
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Iterator for Slots {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let slot = self.0.trailing_zeros() as usize;
        (self.0 != 0).then(|| {
            self.0 &= self.0 - 1;
            slot
        })
    }
}

/// One connection's blocks of one size class: 40 bytes.
#[derive(Debug)]
pub(crate) struct Magazine {
    word: AtomicU64,
    /// Written under the connection's mutex while the slot is vacant.
    blocks: [BlockCell; SLOTS],
}

impl Magazine {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), blocks: std::array::from_fn(|_| BlockCell::new()) }
    }

    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The number of the block in `slot`, which the caller holds.
    #[inline]
    pub(crate) fn number(&self, slot: usize) -> u32 {
        self.blocks[slot].number()
    }

    /// Leases an idle block. `None` sends the caller the slow way.
    #[inline]
    pub(crate) fn try_lease(&self, hold: Hold) -> Option<usize> {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            let free = word.byte(FREE);
            if free == 0 || word.is_barred() {
                return None;
            }
            let slot = free.trailing_zeros() as usize;
            match self.exchange(word, word.lease(slot, hold)) {
                Ok(()) => return Some(slot),
                Err(now) => word = now,
            }
        }
    }

    /// Returns a block, to lie idle. `false` sends the caller the slow way, with nothing changed:
    /// once the block is back nothing may keep the magazine in memory for this caller, so it takes
    /// the mutex while the block is still out.
    #[inline]
    pub(crate) fn try_put(&self, slot: usize, hold: Hold) -> bool {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            if word.wants_slow_return() {
                return false;
            }
            match self.exchange(word, word.put(slot, hold)) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Changes how a block is held, unless the magazine is closed.
    #[inline]
    pub(crate) fn try_rehold(&self, slot: usize, from: Hold, to: Hold) -> bool {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            if word.is_closed() {
                return false;
            }
            let next = word.0 - from.bits(slot) + to.bits(slot);
            match self.exchange(word, Word(next)) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Changes how a block is held that a close would leave alone. Returns the word before.
    #[inline]
    pub(crate) fn rehold(&self, slot: usize, from: Hold, to: Hold) -> Word {
        debug_assert!(from != Hold::Owned, "a close may have taken the block");
        let change = to.bits(slot).wrapping_sub(from.bits(slot));
        Word(self.word.fetch_add(change, Ordering::AcqRel))
    }

    /// Locked: leases an idle block even while slow, but not once closed. If it was the last and
    /// `then_slow`, the magazine is slow from then on. Returns the slot, and whether it was the last.
    pub(crate) fn take_idle(&self, hold: Hold, then_slow: bool) -> Option<(usize, bool)> {
        self.update(|word| {
            let slot = word.idle().next().filter(|_| !word.is_closed())?;
            let next = word.lease(slot, hold);
            let last = next.idle().is_empty();
            let slow = if last && then_slow { SLOW } else { 0 };
            Some((Word(next.0 | slow), (slot, last)))
        })
    }

    /// Locked: returns a block of an open magazine, to lie idle. From then on it is not slow.
    pub(crate) fn put_idle(&self, slot: usize, hold: Hold) {
        let put = self.update(|word| Some((Word(word.put(slot, hold).0 & !SLOW), ())));
        debug_assert!(put.is_some());
    }

    /// Locked: a slot for one more block.
    pub(crate) fn vacant_slot(&self) -> Option<usize> {
        let vacant = !self.word().byte(OCCUPIED) & ALL;
        (vacant != 0).then(|| vacant.trailing_zeros() as usize)
    }

    /// Locked: puts a block that is leased at once into a vacant slot of an open magazine.
    pub(crate) fn install(&self, slot: usize, block: Block, hold: Hold, slow: bool) {
        self.blocks[slot].store(block);
        self.occupy(slot, hold, slow);
    }

    /// Locked: occupies a vacant slot of an open magazine, for what is not a block.
    pub(crate) fn occupy(&self, slot: usize, hold: Hold, slow: bool) {
        let occupied = self.update(|word| {
            debug_assert!(!word.is_closed(), "refilled a closed magazine");
            let slow = if slow { SLOW } else { 0 };
            let next = word.0 & !SLOW | slow;
            Some((Word(next + (1 << slot << OCCUPIED) + hold.bits(slot) + ONE_LEASE), ()))
        });
        debug_assert!(occupied.is_some());
    }

    /// Locked: takes a block out for good that the caller holds, and counts the return. `None`: a
    /// close has taken it from an owned lease.
    pub(crate) fn evict(&self, slot: usize) -> Option<Block> {
        self.vacate_held(slot).then(|| self.blocks[slot].take())
    }

    /// Locked: as [`evict`](Self::evict), of what is not a block.
    pub(crate) fn vacate_held(&self, slot: usize) -> bool {
        self.update(|word| {
            let there = word.byte(OCCUPIED) & Slots::of(slot).0 != 0;
            there.then(|| (Word(word.vacate(Slots::of(slot)).0 + ONE_RETURN), ()))
        })
        .is_some()
    }

    /// Locked: vacates every idle slot and returns the blocks. If `then_slow`, nothing comes to lie
    /// idle before the next [`install`](Self::install) or [`put_idle`](Self::put_idle).
    pub(crate) fn flush(&self, then_slow: bool) -> impl Iterator<Item = Block> {
        let flushed = self.update(|word| {
            let slow = if then_slow { SLOW } else { 0 };
            Some((Word(word.vacate(word.idle()).0 | slow), word.idle()))
        });
        self.take_vacated(flushed.unwrap_or_default())
    }

    /// Locked: takes the counts out: leases and returns since the last time.
    pub(crate) fn fold(&self) -> (u64, u64) {
        self.update(|word| {
            let folded = Word(word.0 & !COUNTS);
            (folded != word).then_some((folded, (word.leases(), word.returns())))
        })
        .unwrap_or_default()
    }

    /// Locked, once: closes the magazine and vacates all that is idle or revocable, counting the
    /// revoked as returned. Returns the word before; the closer takes the blocks of exactly those.
    pub(crate) fn close(&self) -> Word {
        self.update(|word| {
            let taken = word.idle().union(word.revocable());
            let returned = u64::from(word.revocable().len()) * ONE_RETURN;
            Some((Word((word.vacate(taken).0 | CLOSED) + returned), word))
        })
        .unwrap_or_default()
    }

    /// Locked, after the guard is gone: vacates what is still borrowed, which was forgotten.
    pub(crate) fn take_forgotten(&self) -> Slots {
        self.update(|word| {
            let forgotten = word.borrowed();
            let returned = u64::from(forgotten.len()) * ONE_RETURN;
            Some((Word(word.vacate(forgotten).0 + returned), forgotten))
        })
        .unwrap_or_default()
    }

    /// Locked: the blocks of slots that the caller has just vacated.
    pub(crate) fn take_vacated(&self, slots: Slots) -> impl Iterator<Item = Block> {
        slots.map(|slot| self.blocks[slot].take())
    }

    /// One read-modify-write; `None` leaves the word as it is.
    fn update<R>(&self, f: impl Fn(Word) -> Option<(Word, R)>) -> Option<R> {
        let mut word = self.word();
        loop {
            let (next, answer) = f(word)?;
            match self.exchange(word, next) {
                Ok(()) => return Some(answer),
                Err(now) => word = now,
            }
        }
    }

    #[inline(always)]
    fn exchange(&self, word: Word, next: Word) -> Result<(), Word> {
        // AcqRel: a step acquires what the last holder of the block wrote, and releases what this
        // one did. Relaxed on failure: nothing is read before the next try.
        self.word
            .compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed)
            .map(drop)
            .map_err(Word)
    }
}

/// A further magazine of a connection, for what its first ones have no slot for: more blocks of a
/// size class, or a large lease, which has a mapping of its own.
///
/// It stays where it is for as long as one of its slots is occupied, or a revoked lease of it is kept.
#[repr(C)]
pub(crate) struct Extra {
    magazine: Magazine,
    /// Its place among the others of its kind. Changes under the connection's mutex.
    place: AtomicU32,
    /// Leases that were out when the connection closed and have not dropped since.
    stragglers: AtomicU8,
    kind: u8,
    /// The memory of a large lease, which has a mapping of its own.
    large: Option<TryBox<LargeCell>>,
}

/// The memory of a large lease until it is unmapped: in a lock of its own, since leases refer to the
/// magazine meanwhile.
struct LargeCell {
    bytes: u64,
    memory: Mutex<Option<Large>>,
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Extra>() == 56);

/// The memory of a large lease, and where it was leased.
pub(crate) struct Large {
    pub(crate) mapping: Mapping,
    pub(crate) note: Note,
}

impl Extra {
    /// For more blocks of a size class.
    pub(crate) fn of_blocks(class: usize) -> Result<TryBox<Self>, OutOfMemory> {
        Self::new(class, None)
    }

    /// For a large lease, in its first slot. It is slow for as long as it exists. `map` is called
    /// when there is memory for all else.
    pub(crate) fn of_large<E: From<OutOfMemory>>(
        bytes: usize,
        map: impl FnOnce() -> Result<Mapping, E>,
    ) -> Result<TryBox<Self>, E> {
        let cell = LargeCell { bytes: bytes as u64, memory: Mutex::new(None) };
        let extra = Self::new(MAX_SIZE_CLASSES, Some(TryBox::new(cell)?))?;
        let large = Large { mapping: map()?, note: Note::default() };
        if let Some(cell) = &extra.large {
            *cell.memory.lock() = Some(large);
        }
        Ok(extra)
    }

    fn new(kind: usize, large: Option<TryBox<LargeCell>>) -> Result<TryBox<Self>, OutOfMemory> {
        TryBox::new(Self {
            magazine: Magazine::new(),
            place: AtomicU32::new(0),
            stragglers: AtomicU8::new(0),
            kind: kind as u8,
            large,
        })
    }

    #[inline]
    pub(crate) fn magazine(&self) -> &Magazine {
        &self.magazine
    }

    /// The size class, or [`MAX_SIZE_CLASSES`] for a large lease.
    pub(crate) fn kind(&self) -> usize {
        self.kind.into()
    }

    /// Whether this is for a large lease.
    pub(crate) fn is_large(&self) -> bool {
        self.large.is_some()
    }

    /// The size of a large lease, in bytes.
    pub(crate) fn large_bytes(&self) -> u64 {
        self.large.as_ref().map_or(0, |large| large.bytes)
    }

    /// Does something with the memory of a large lease, if it is still there.
    pub(crate) fn with_large<R>(&self, f: impl FnOnce(&Large) -> R) -> Option<R> {
        self.large.as_ref()?.memory.lock().as_ref().map(f)
    }

    /// Takes out the memory of a large lease that has been returned.
    pub(crate) fn take_returned_large(&self) -> Option<Mapping> {
        if !self.magazine.word().is_vacant() {
            return None;
        }
        self.large.as_ref()?.memory.lock().take().map(|large| large.mapping)
    }

    pub(crate) fn place(&self) -> usize {
        self.place.load(Relaxed) as usize
    }

    pub(crate) fn set_place(&self, place: usize) {
        self.place.store(place as u32, Relaxed);
    }

    /// Whether nothing needs the magazine any more.
    pub(crate) fn is_over(&self) -> bool {
        self.magazine.word().is_vacant()
            && self.stragglers.load(Relaxed) == 0
            && self.with_large(|_| ()).is_none()
    }

    /// Notes how many leases were out when the connection closed.
    pub(crate) fn set_stragglers(&self, count: u32) {
        self.stragglers.store(count as u8, Relaxed);
    }

    pub(crate) fn forget_stragglers(&self, count: u32) {
        self.set_stragglers(u32::from(self.stragglers.load(Relaxed)) - count);
    }
}

/// The slot that a lease's block is in: the magazine's address, with the slot in its low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotRef(NonNull<u8>);

const _: () = assert!(align_of::<Magazine>() >= SLOTS && align_of::<Extra>() >= SLOTS);

impl SlotRef {
    #[inline(always)]
    pub(crate) fn of(magazine: &Magazine, slot: usize) -> Self {
        Self::new(NonNull::from(magazine).cast(), slot)
    }

    /// Of an extra magazine: its address leads to all of it.
    pub(crate) fn of_extra(extra: &Extra, slot: usize) -> Self {
        Self::new(NonNull::from(extra).cast(), slot)
    }

    #[inline(always)]
    fn new(address: NonNull<u8>, slot: usize) -> Self {
        debug_assert!(slot < SLOTS);
        Self(address.map_addr(|address| address | slot))
    }

    #[inline(always)]
    pub(crate) fn slot(self) -> usize {
        self.0.addr().get() % SLOTS
    }

    /// The address of the magazine, or of the [`Extra`] that it is the first part of.
    #[inline(always)]
    pub(crate) fn address(self) -> NonNull<u8> {
        let slot = self.slot();
        // The slot's bits are never the whole address.
        self.0.map_addr(|address| NonZeroUsize::new(address.get() - slot).unwrap_or(address))
    }
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Magazine>() == 40);

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use super::*;

    /// What the table in the module's docs says of one slot, in plain words.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Vacant,
        Idle,
        Held(Hold),
    }

    fn read(word: Word, slot: usize) -> State {
        let has = |slots: Slots| slots.0 >> slot & 1 == 1;
        match (has(word.idle()), has(word.outstanding())) {
            (false, false) => State::Vacant,
            (true, false) => State::Idle,
            (false, true) if has(word.borrowed()) => State::Held(Hold::Borrowed),
            (false, true) if has(word.revocable()) => State::Held(Hold::Owned),
            (false, true) if has(word.detached()) => State::Held(Hold::Detached),
            (false, true) => State::Held(Hold::Pinned),
            (true, true) => unreachable!("a slot is both idle and out"),
        }
    }

    const HOLDS: [Hold; 4] = [Hold::Borrowed, Hold::Owned, Hold::Pinned, Hold::Detached];

    /// Random transitions on all slots, against a plain array of states.
    #[test]
    fn the_word_says_what_a_plain_model_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let magazine = Magazine::new();
            let mut model = [State::Vacant; SLOTS];
            let (mut slow, mut closed) = (false, false);
            let (mut leases, mut returns) = (0_u64, 0_u64);
            for _ in 0..200 {
                let slot = random.usize(..SLOTS);
                let hold = HOLDS[random.usize(..HOLDS.len())];
                let held = |model: &[State; SLOTS]| match model[slot] {
                    State::Held(hold) => Some(hold),
                    _ => None,
                };
                match random.u32(..100) {
                    0..25 => {
                        let expected = model.iter().position(|s| *s == State::Idle);
                        let expected = expected.filter(|_| !slow && !closed);
                        assert_eq!(magazine.try_lease(hold), expected);
                        if let Some(slot) = expected {
                            model[slot] = State::Held(hold);
                            leases += 1;
                        }
                    }
                    25..40 if !closed => {
                        let vacant = model.iter().position(|s| *s == State::Vacant);
                        assert_eq!(magazine.vacant_slot(), vacant);
                        if let Some(slot) = vacant {
                            slow = random.bool();
                            magazine.install(slot, Block::fake(slot as u32), hold, slow);
                            model[slot] = State::Held(hold);
                            leases += 1;
                        }
                    }
                    40..55 => {
                        if let Some(hold) = held(&model) {
                            let put = magazine.try_put(slot, hold);
                            assert_eq!(put, !slow && !closed);
                            if put {
                                model[slot] = State::Idle;
                                returns += 1;
                            }
                        }
                    }
                    55..60 if !closed => {
                        if let Some(hold) = held(&model) {
                            magazine.put_idle(slot, hold);
                            (model[slot], slow) = (State::Idle, false);
                            returns += 1;
                        }
                    }
                    60..65 => {
                        let mut idle = model.iter().enumerate().filter(|(_, s)| **s == State::Idle);
                        let first = idle.next().filter(|_| !closed).map(|(slot, _)| slot);
                        let expected = first.map(|slot| (slot, idle.next().is_none()));
                        let then_slow = random.bool();
                        assert_eq!(magazine.take_idle(hold, then_slow), expected);
                        if let Some((slot, was_last)) = expected {
                            model[slot] = State::Held(hold);
                            slow |= was_last && then_slow;
                            leases += 1;
                        }
                    }
                    65..80 => {
                        if let Some(from) = held(&model) {
                            if magazine.try_rehold(slot, from, hold) {
                                assert!(!closed);
                                model[slot] = State::Held(hold);
                            } else {
                                assert!(closed);
                            }
                        }
                    }
                    80..90 => {
                        let there = model[slot] != State::Vacant && model[slot] != State::Idle;
                        if there {
                            assert_eq!(
                                magazine.evict(slot).map(|block| block.number()),
                                Some(slot as u32)
                            );
                            model[slot] = State::Vacant;
                            returns += 1;
                        }
                    }
                    90..97 => {
                        let then_slow = random.bool();
                        let flushed: Vec<_> = magazine.flush(then_slow).collect();
                        slow |= then_slow;
                        let idle = |s: &mut State| *s == State::Idle;
                        let expected =
                            model.iter_mut().filter_map(|s| idle(s).then(|| *s = State::Vacant));
                        assert_eq!(flushed.len(), expected.count());
                    }
                    97..98 => {
                        assert_eq!(magazine.fold(), (leases, returns));
                        (leases, returns) = (0, 0);
                    }
                    98 if !closed => {
                        closed = true;
                        let before = magazine.close();
                        assert!(!before.is_closed());
                        for (slot, state) in model.iter_mut().enumerate() {
                            assert_eq!(read(before, slot), *state);
                            if *state == State::Held(Hold::Owned) {
                                returns += 1;
                            }
                            if matches!(state, State::Idle | State::Held(Hold::Owned)) {
                                *state = State::Vacant;
                            }
                        }
                    }
                    99 if closed => {
                        for slot in magazine.take_forgotten() {
                            assert_eq!(model[slot], State::Held(Hold::Borrowed));
                            model[slot] = State::Vacant;
                            returns += 1;
                        }
                        assert!(!model.contains(&State::Held(Hold::Borrowed)));
                    }
                    _ => {}
                }
                let word = magazine.word();
                assert_eq!((word.leases(), word.returns()), (leases, returns));
                for (slot, state) in model.iter().enumerate() {
                    assert_eq!(read(word, slot), *state, "slot {slot} of {word:x?}");
                }
            }
        }
    }

    /// At 2^14 leases the magazine asks to be folded, and no count spills into its neighbour.
    #[test]
    fn a_full_count_sends_leases_the_slow_way_until_it_is_folded() {
        let magazine = Magazine::new();
        magazine.install(0, Block::fake(0), Hold::Borrowed, false);
        assert!(magazine.try_put(0, Hold::Borrowed));
        let mut leased = 1;
        while let Some(slot) = magazine.try_lease(Hold::Borrowed) {
            assert!(magazine.try_put(slot, Hold::Borrowed));
            leased += 1;
        }
        assert_eq!(leased, 1 << 14);
        assert!(magazine.word().wants_fold());
        assert_eq!(read(magazine.word(), 0), State::Idle);
        assert_eq!(magazine.fold(), (leased, leased));
        assert!(magazine.try_lease(Hold::Borrowed).is_some());
    }
}
