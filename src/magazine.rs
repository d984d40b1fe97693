//! Eight blocks of one size class, kept by one connection, and the one word that says everything
//! about them.
//!
//! ```text
//! 63      62     61 ─ 47   46 ─ 32   31 ─ 24    23 ─ 16  15 ─ 8   7 ─ 0
//! closed  tight  leases    returns   occupied   free     owned    pinned
//! ```
//!
//! **States.** Bit *n* of each of the four bytes belongs to slot *n*:
//!
//! | occupied | free | owned | pinned | the slot is |
//! |---|---|---|---|---|
//! | 0 | – | – | – | vacant: it holds no block |
//! | 1 | 1 | 0 | 0 | cached: idle, ready to be leased |
//! | 1 | 0 | 0 | 0 | borrowed: a `Lease<'_>` has it, whose guard outlives it |
//! | 1 | 0 | 1 | 0 | owned: an `OwnedLease` has it, nobody touches its bytes, close may take it |
//! | 1 | 0 | 1 | 1 | pinned: an `OwnedLease` or a `PinnedLease` touches its bytes, close leaves it |
//! | 1 | 0 | 0 | 1 | detached: a `Bytes` has it, close leaves it |
//!
//! **Transitions.** Each is one read-modify-write of the whole word, so all of them stand in one
//! total order and every one of them learns whether the magazine was closed before it:
//!
//! ```text
//!              lease                 into_owned            pin
//!   cached ───────────▶ borrowed ───────────────▶ owned ◀───────▶ pinned
//!     ▲ ▲ ▲    return       │                       │ ▲   unpin      │
//!     │ │ └─────────────────┤ freeze                │ └── lease owned│
//!     │ └───────────────────│───────────────────────┴────────────────┤ freeze
//!     └──── last Bytes ── detached ◀─────────────────────────────────┘
//! ```
//!
//! **Close** is one of them too: a single step sets *closed* and vacates every slot that is cached
//! or owned-but-not-pinned. The closer returns exactly those blocks. From then on *occupied* says
//! that a block is still out, and each of those has exactly one party left to return it: the
//! borrowed lease's drop, the unpin, or the drop of the pinned lease or the `Bytes`. When the guard
//! itself goes no borrow can be alive, so what is still borrowed was forgotten, and is taken too.
//!
//! **Tight** sends leases and returns the slow way. A sweep is one step as well: it vacates what is
//! cached and sets *tight*, so that nothing returns to the cache behind its back.
//!
//! **Counting.** *leases* and *returns* count in the same step that hands out or takes back. The
//! top bit of *leases* is the *wrap* mark: leases then go the slow way, which folds both counts
//! into the connection's totals. Between two folds there are at most 2¹⁴ leases and so 2¹⁴ + 8
//! returns, which 15 bits hold.
//!
//! Who may do what: methods marked *slow* are called with the connection's mutex held, all others
//! by the party that the table names. No method here touches a budget or the arena.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Blocks that a magazine holds.
pub(crate) const SLOTS: usize = 8;

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
const TIGHT: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

impl Word {
    /// Leases must go the slow way.
    #[inline(always)]
    fn is_barred(self) -> bool {
        self.0 & (CLOSED | TIGHT | WRAP) != 0
    }

    /// Returns must go the slow way.
    #[inline(always)]
    pub(crate) fn wants_slow_return(self) -> bool {
        self.0 & (CLOSED | TIGHT) != 0
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// The next lease has to fold the counts first.
    pub(crate) fn wants_fold(self) -> bool {
        self.0 & WRAP != 0
    }

    /// A block may rest here without anyone being asked.
    pub(crate) fn may_cache(self) -> bool {
        !self.wants_slow_return() && self.byte(OCCUPIED) != 0
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
    pub(crate) fn cached(self) -> Slots {
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

    /// Slots whose block lives on as `Bytes`.
    pub(crate) fn detached(self) -> Slots {
        Slots(self.outstanding().0 & !self.byte(OWNED) & self.byte(PINNED))
    }

    fn vacate(self, slots: Slots) -> Word {
        let gone = u64::from(slots.0);
        Word(self.0 & !(gone << OCCUPIED | gone << FREE | gone << OWNED | gone << PINNED))
    }
}

/// What a flush does about the *tight* mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tight {
    Keep,
    Set,
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
    blocks: [AtomicU32; SLOTS],
}

impl Magazine {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), blocks: std::array::from_fn(|_| AtomicU32::new(0)) }
    }

    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The block in `slot`, which the caller holds.
    #[inline]
    pub(crate) fn block(&self, slot: usize) -> u32 {
        // Relaxed: whoever holds the slot took it with an acquiring step, and the block was
        // written before the releasing step that first offered it.
        self.blocks[slot].load(Ordering::Relaxed)
    }

    /// Leases a cached block. `None` sends the caller the slow way.
    #[inline]
    pub(crate) fn try_lease(&self, hold: Hold) -> Option<usize> {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            let free = word.byte(FREE);
            if free == 0 || word.is_barred() {
                return None;
            }
            let slot = free.trailing_zeros() as usize;
            let next = word.0 - (1 << slot << FREE) + hold.bits(slot) + ONE_LEASE;
            match self.exchange(word, Word(next)) {
                Ok(()) => return Some(slot),
                Err(now) => word = now,
            }
        }
    }

    /// Returns a borrowed block to the cache. The answer is the word before: if it
    /// [wants](Word::wants_slow_return) so, the caller goes on the slow way.
    #[inline]
    pub(crate) fn put_borrowed(&self, slot: usize) -> Word {
        // One addition does it: while the borrow lives, its free bit is known to be clear.
        Word(self.word.fetch_add((1 << slot << FREE) + ONE_RETURN, Ordering::AcqRel))
    }

    /// Returns a block held by a `'static` lease to the cache. `false` sends the caller the slow
    /// way, with nothing changed: once the block is back nothing keeps the connection's record in
    /// memory for this caller, so it has to take the mutex while the block is still out.
    #[inline]
    pub(crate) fn try_put(&self, slot: usize, hold: Hold) -> bool {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            if word.wants_slow_return() {
                return false;
            }
            let next = word.0 - hold.bits(slot) + (1 << slot << FREE) + ONE_RETURN;
            match self.exchange(word, Word(next)) {
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

    /// Changes how a block is held that a close would leave alone. The answer is the word before.
    #[inline]
    pub(crate) fn rehold(&self, slot: usize, from: Hold, to: Hold) -> Word {
        debug_assert!(from != Hold::Owned, "a close may have taken the block");
        let change = to.bits(slot).wrapping_sub(from.bits(slot));
        Word(self.word.fetch_add(change, Ordering::AcqRel))
    }

    /// Slow: leases a cached block even while tight, but not once closed.
    pub(crate) fn take_cached(&self, hold: Hold) -> Option<usize> {
        self.update(|word| {
            let slot = word.cached().next().filter(|_| !word.is_closed())?;
            let next = word.0 - (1 << slot << FREE) + hold.bits(slot) + ONE_LEASE;
            Some((Word(next), slot))
        })
    }

    /// Slow: a slot for one more block.
    pub(crate) fn vacant_slot(&self) -> Option<usize> {
        let vacant = !self.word().byte(OCCUPIED);
        (vacant != 0).then(|| vacant.trailing_zeros() as usize)
    }

    /// Slow: puts a block that is leased at once into a vacant slot of an open magazine.
    pub(crate) fn install(&self, slot: usize, block: u32, hold: Hold, tight: bool) {
        self.blocks[slot].store(block, Ordering::Relaxed);
        let installed = self.update(|word| {
            debug_assert!(!word.is_closed(), "refilled a closed magazine");
            let tight = if tight { TIGHT } else { 0 };
            let next = word.0 & !TIGHT | tight;
            Some((Word(next + (1 << slot << OCCUPIED) + hold.bits(slot) + ONE_LEASE), ()))
        });
        debug_assert!(installed.is_some());
    }

    /// Slow: takes a block out for good that the caller holds, and counts the return. Answers
    /// whether the block was still there: a close takes it from an owned lease.
    pub(crate) fn evict(&self, slot: usize) -> bool {
        self.update(|word| {
            let there = word.byte(OCCUPIED) & Slots::of(slot).0 != 0;
            there.then(|| (Word(word.vacate(Slots::of(slot)).0 + ONE_RETURN), ()))
        })
        .is_some()
    }

    /// Slow: vacates every cached slot and answers which. [`Tight::Set`] keeps anything from being
    /// cached again before the next [`install`](Self::install).
    pub(crate) fn flush(&self, tight: Tight) -> Slots {
        self.update(|word| {
            let cached = word.cached();
            let tight = if tight == Tight::Set { TIGHT } else { 0 };
            Some((Word(word.vacate(cached).0 | tight), cached))
        })
        .unwrap_or_default()
    }

    /// Slow: takes the counts out: leases and returns since the last time.
    pub(crate) fn fold(&self) -> (u64, u64) {
        self.update(|word| {
            let folded = Word(word.0 & !COUNTS);
            (folded != word).then_some((folded, (word.leases(), word.returns())))
        })
        .unwrap_or_default()
    }

    /// Slow, once: closes the magazine and vacates all that is cached or revocable, counting the
    /// revoked as returned. The answer is the word before.
    pub(crate) fn close(&self) -> Word {
        self.update(|word| {
            let taken = word.cached().union(word.revocable());
            let returned = u64::from(word.revocable().len()) * ONE_RETURN;
            Some((Word((word.vacate(taken).0 | CLOSED) + returned), word))
        })
        .unwrap_or_default()
    }

    /// Slow, after the guard is gone: vacates what is still borrowed, which was forgotten.
    pub(crate) fn reclaim_forgotten(&self) -> Slots {
        self.update(|word| {
            let forgotten = word.borrowed();
            let returned = u64::from(forgotten.len()) * ONE_RETURN;
            Some((Word(word.vacate(forgotten).0 + returned), forgotten))
        })
        .unwrap_or_default()
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

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Magazine>() == 40);

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use super::*;

    /// What the table in the module's docs says of one slot, in plain words.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Vacant,
        Cached,
        Held(Hold),
    }

    fn read(word: Word, slot: usize) -> State {
        let has = |slots: Slots| slots.0 >> slot & 1 == 1;
        match (has(word.cached()), has(word.outstanding())) {
            (false, false) => State::Vacant,
            (true, false) => State::Cached,
            (false, true) if has(word.borrowed()) => State::Held(Hold::Borrowed),
            (false, true) if has(word.revocable()) => State::Held(Hold::Owned),
            (false, true) if has(word.detached()) => State::Held(Hold::Detached),
            (false, true) => State::Held(Hold::Pinned),
            (true, true) => unreachable!("a slot is both cached and out"),
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
            let (mut tight, mut closed) = (false, false);
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
                        let expected = model.iter().position(|s| *s == State::Cached);
                        let expected = expected.filter(|_| !tight && !closed);
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
                            tight = random.bool();
                            magazine.install(slot, slot as u32, hold, tight);
                            model[slot] = State::Held(hold);
                            leases += 1;
                        }
                    }
                    40..65 => match held(&model) {
                        Some(Hold::Borrowed) => {
                            let before = magazine.put_borrowed(slot);
                            assert_eq!(before.wants_slow_return(), tight || closed);
                            model[slot] = State::Cached;
                            returns += 1;
                        }
                        Some(hold) => {
                            let put = magazine.try_put(slot, hold);
                            assert_eq!(put, !tight && !closed);
                            if put {
                                model[slot] = State::Cached;
                                returns += 1;
                            }
                        }
                        None => {}
                    },
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
                        let there = model[slot] != State::Vacant && model[slot] != State::Cached;
                        if there {
                            assert!(magazine.evict(slot));
                            model[slot] = State::Vacant;
                            returns += 1;
                        }
                    }
                    90..97 => {
                        let flushed = magazine.flush(Tight::Keep);
                        let cached = |s: &mut State| *s == State::Cached;
                        let expected =
                            model.iter_mut().filter_map(|s| cached(s).then(|| *s = State::Vacant));
                        assert_eq!(flushed.len() as usize, expected.count());
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
                            if matches!(state, State::Cached | State::Held(Hold::Owned)) {
                                *state = State::Vacant;
                            }
                        }
                    }
                    99 if closed => {
                        for slot in magazine.reclaim_forgotten() {
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
        magazine.install(0, 0, Hold::Borrowed, false);
        magazine.put_borrowed(0);
        let mut leased = 1;
        while let Some(slot) = magazine.try_lease(Hold::Borrowed) {
            magazine.put_borrowed(slot);
            leased += 1;
        }
        assert_eq!(leased, 1 << 14);
        assert!(magazine.word().wants_fold());
        assert_eq!(read(magazine.word(), 0), State::Cached);
        assert_eq!(magazine.fold(), (leased, leased));
        assert!(magazine.try_lease(Hold::Borrowed).is_some());
    }
}
