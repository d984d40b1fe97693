//! Eight blocks of one size class, kept by one connection, and the one word that says everything
//! about them.
//!
//! ```text
//! 63      62     61 ─ 47   46 ─ 32   31 ─ 24    23 ─ 16  15 ─ 8   7 ─ 0
//! closed  slow   leases    returns   occupied   owned    pinned   free
//! ```
//!
//! **States.** Bit *n* of each of the four bytes belongs to slot *n*:
//!
//! | occupied | owned | pinned | free | the slot is | a close |
//! |---|---|---|---|---|---|
//! | 0 | 0 | 0 | 0 | vacant: it holds no block | |
//! | 1 | 0 | 0 | 1 | idle: ready to be leased | takes it |
//! | 1 | 0 | 0 | 0 | borrowed: a `Lease<'_>` has it, whose guard outlives it | leaves it |
//! | 1 | 1 | 0 | 0 | owned: an `OwnedLease` has it, no thread touches its bytes | takes it: the lease is revoked |
//! | 1 | 1 | 1 | 0 | pinned: an `OwnedLease` or a `PinnedLease` touches its bytes | leaves it to the unpin |
//! | 1 | 0 | 1 | 0 | detached: a `Bytes` has it | leaves it to the last clone |
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

mod extra;
mod slot;
mod word;

use crate::arena::{Block, BlockCell};
use crate::sync::{AtomicU64, Ordering};
pub(crate) use extra::Extra;
pub(crate) use slot::SlotRef;
pub(crate) use word::{Hold, Slots, Word};

/// Blocks that a magazine holds.
#[cfg(not(leasehold_loom))]
pub(crate) const SLOTS: usize = 8;
/// Blocks that a magazine holds: so few that a model with three leases reaches a further one.
#[cfg(leasehold_loom)]
pub(crate) const SLOTS: usize = 2;

/// One connection's blocks of one size class: 40 bytes.
#[derive(Debug)]
pub(crate) struct Magazine {
    word: AtomicU64,
    /// Written under the connection's mutex while the slot is vacant.
    blocks: [BlockCell; SLOTS],
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Magazine>() == 40);

impl Magazine {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), blocks: std::array::from_fn(|_| BlockCell::new()) }
    }

    #[inline(always)]
    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The number of the block in `slot`, which the caller holds.
    #[inline(always)]
    pub(crate) fn number(&self, slot: usize) -> u32 {
        self.blocks[slot].number()
    }

    /// Leases an idle block. `None` sends the caller the slow way.
    #[inline(always)]
    pub(crate) fn try_lease(&self, hold: Hold) -> Option<usize> {
        self.try_update(|word| word.lease_fast(hold))
    }

    /// Returns a block, to lie idle. `false` sends the caller the slow way, with nothing changed:
    /// once the block is back nothing may keep the magazine in memory for this caller, so it takes
    /// the mutex while the block is still out.
    #[inline(always)]
    pub(crate) fn try_put(&self, slot: usize, hold: Hold) -> bool {
        let put = |word: Word| (!word.wants_slow_return()).then(|| (word.put(slot, hold), ()));
        self.try_update(put).is_some()
    }

    /// Changes how a block is held, unless the magazine is closed.
    #[inline(always)]
    pub(crate) fn try_rehold(&self, slot: usize, from: Hold, to: Hold) -> bool {
        let reheld = |word: Word| Word(word.0 - from.bits(slot) + to.bits(slot));
        self.try_update(|word| (!word.is_closed()).then(|| (reheld(word), ()))).is_some()
    }

    /// Changes how a block is held that a close would leave alone. Returns the word before.
    #[inline(always)]
    pub(crate) fn rehold(&self, slot: usize, from: Hold, to: Hold) -> Word {
        debug_assert!(from != Hold::Owned, "a close may have taken the block");
        let change = to.bits(slot).wrapping_sub(from.bits(slot));
        Word(self.word.fetch_add(change, Ordering::AcqRel))
    }

    /// Locked: leases an idle block even while slow. If it was the last and `then_slow`, the magazine
    /// is slow from then on. Returns the slot, and whether it was the last.
    pub(crate) fn take_idle(&self, hold: Hold, then_slow: bool) -> Option<(usize, bool)> {
        self.try_update(|word| {
            let (next, slot) = word.lease_first(hold)?;
            let last = next.idle().is_empty();
            Some((if last && then_slow { next.slow(true) } else { next }, (slot, last)))
        })
    }

    /// Locked: returns a block of an open magazine, to lie idle. From then on it is not slow.
    pub(crate) fn put_idle(&self, slot: usize, hold: Hold) {
        self.update(|word| word.put(slot, hold).slow(false));
    }

    /// Locked: a slot for one more block.
    pub(crate) fn vacant_slot(&self) -> Option<usize> {
        Some(self.word().first_vacant()).filter(|slot| *slot < SLOTS)
    }

    /// Locked: puts a block that is leased at once into a vacant slot of an open magazine.
    pub(crate) fn install(&self, slot: usize, block: Block, hold: Hold, slow: bool) {
        self.blocks[slot].store(block);
        self.occupy(slot, hold, slow);
    }

    /// Locked: occupies a vacant slot of an open magazine, for what is not a block.
    pub(crate) fn occupy(&self, slot: usize, hold: Hold, slow: bool) {
        let before = self.update(|word| word.occupy(slot, hold).slow(slow));
        debug_assert!(!before.is_closed(), "refilled a closed magazine");
    }

    /// Locked: takes a block out for good that the caller holds, and counts the return. `None`: a
    /// close has taken it from an owned lease.
    pub(crate) fn evict(&self, slot: usize) -> Option<Block> {
        self.vacate_held(slot).then(|| self.blocks[slot].take())
    }

    /// Locked: as [`evict`](Self::evict), of what is not a block.
    pub(crate) fn vacate_held(&self, slot: usize) -> bool {
        let held = Slots::of(slot);
        let vacate = |word: Word| word.is_occupied(slot).then(|| (word.vacate(held, held), ()));
        self.try_update(vacate).is_some()
    }

    /// Locked: vacates every idle slot and returns the blocks. If `then_slow`, nothing comes to lie
    /// idle before the next [`install`](Self::install) or [`put_idle`](Self::put_idle).
    pub(crate) fn flush(&self, then_slow: bool) -> impl Iterator<Item = Block> {
        let before = self.update(|word| {
            let flushed = word.vacate(word.idle(), Slots::default());
            if then_slow { flushed.slow(true) } else { flushed }
        });
        self.take_vacated(before.idle())
    }

    /// Locked: vacates so many idle slots and returns the blocks, or none if there are fewer.
    pub(crate) fn take_idle_blocks(&self, count: u32) -> impl Iterator<Item = Block> {
        let taken = self.try_update(|word| {
            let idle = word.idle();
            let slots =
                idle.take(count as usize).map(Slots::of).fold(Slots::default(), Slots::union);
            (slots.len() == count).then(|| (word.vacate(slots, Slots::default()), slots))
        });
        self.take_vacated(taken.unwrap_or_default())
    }

    /// Locked: takes the counts out: leases and returns since the last time.
    pub(crate) fn fold(&self) -> (u64, u64) {
        self.try_update(|word| {
            let folded = word.without_counts();
            (folded != word).then_some((folded, (word.leases(), word.returns())))
        })
        .unwrap_or_default()
    }

    /// Locked, once: closes the magazine and vacates all that is idle or revocable, counting the
    /// revoked as returned. Returns the word before; the closer takes the blocks of exactly those.
    pub(crate) fn close(&self) -> Word {
        self.update(|word| {
            let revoked = word.revocable();
            word.vacate(word.idle().union(revoked), revoked).closed()
        })
    }

    /// Locked, after the guard is gone: vacates what is still borrowed, which was forgotten.
    pub(crate) fn take_forgotten(&self) -> Slots {
        self.update(|word| word.vacate(word.borrowed(), word.borrowed())).borrowed()
    }

    /// Locked: the blocks of slots that the caller has just vacated.
    pub(crate) fn take_vacated(&self, slots: Slots) -> impl Iterator<Item = Block> {
        slots.map(|slot| self.blocks[slot].take())
    }

    /// One read-modify-write. Returns the word before.
    fn update(&self, next: impl Fn(Word) -> Word) -> Word {
        self.try_update(|word| Some((next(word), word))).unwrap_or_default()
    }

    /// One read-modify-write; `None` leaves the word as it is.
    #[inline(always)]
    fn try_update<R>(&self, next: impl Fn(Word) -> Option<(Word, R)>) -> Option<R> {
        // Relaxed: nothing is read before the exchange, nor after `None`.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (next, result) = next(Word(word))?;
            // AcqRel: a step acquires what the last holder of the block wrote, and releases what
            // this one did. Relaxed on failure, as above.
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            match self.word.compare_exchange(word, next.0, success, failure) {
                Ok(_) => return Some(result),
                Err(now) => word = now,
            }
        }
    }
}

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
        let has = |slots: Slots| slots.contains(slot);
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
