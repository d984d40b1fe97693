//! The word of a magazine: what its fields are, and one step of one slot.

/// How a lease holds its block. The value is the bits of the first slot if it is held in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Hold {
    Borrowed = 0,
    Owned = 1 << OWNED,
    Pinned = 1 << OWNED | 1 << PINNED,
    Detached = 1 << PINNED,
}

impl Hold {
    /// The bits of a slot that is held in this way.
    #[inline(always)]
    pub(super) const fn bits(self, slot: usize) -> u64 {
        (self as u64) << slot
    }
}

/// The packed word of a magazine; see the module's docs for its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(pub(super) u64);

// The lowest byte, so that the lowest bit of a word is that of an idle block, if there is one.
const FREE: u32 = 0;
const PINNED: u32 = 8;
const OWNED: u32 = 16;
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

/// What a word says.
impl Word {
    /// Leases must go the slow way.
    #[inline(always)]
    fn is_barred(self) -> bool {
        self.0 & (CLOSED | SLOW | WRAP) != 0
    }

    /// Returns must go the slow way.
    #[inline(always)]
    pub(super) fn wants_slow_return(self) -> bool {
        self.0 & (CLOSED | SLOW) != 0
    }

    #[inline(always)]
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

    /// Rises with each lease and return, until they are folded.
    pub(crate) fn moves(self) -> u64 {
        (self.0 & COUNTS) >> RETURNS
    }

    #[inline(always)]
    const fn byte(self, field: u32) -> u8 {
        (self.0 >> field) as u8
    }

    /// No slot holds a block.
    pub(crate) fn is_vacant(self) -> bool {
        self.byte(OCCUPIED) == 0
    }

    /// The first slot that holds no block, whether or not the magazine has so many.
    pub(super) fn first_vacant(self) -> usize {
        self.byte(OCCUPIED).trailing_ones() as usize
    }

    pub(super) fn is_occupied(self, slot: usize) -> bool {
        Slots(self.byte(OCCUPIED)).contains(slot)
    }

    /// Slots whose block is idle.
    #[inline(always)]
    pub(crate) fn idle(self) -> Slots {
        Slots(self.byte(FREE))
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
        Slots(self.byte(OWNED) & !self.byte(PINNED))
    }

    /// Slots whose block a thread touches through an owned lease.
    pub(crate) fn pinned(self) -> Slots {
        Slots(self.byte(OWNED) & self.byte(PINNED))
    }

    /// Slots whose block lives on as `Bytes`.
    pub(crate) fn detached(self) -> Slots {
        Slots(!self.byte(OWNED) & self.byte(PINNED))
    }
}

/// What a step makes of a word.
impl Word {
    /// The first idle block is leased, unless leases must go the slow way.
    #[inline(always)]
    pub(super) fn lease_fast(self, hold: Hold) -> Option<(Word, usize)> {
        if self.is_barred() { None } else { self.lease_first(hold) }
    }

    /// The first idle block is leased.
    #[inline(always)]
    pub(super) fn lease_first(self, hold: Hold) -> Option<(Word, usize)> {
        let idle = self.byte(FREE);
        let slot = idle.trailing_zeros() as usize;
        let leased = Word((self.0 & !(1 << slot << FREE)) + hold.bits(slot) + ONE_LEASE);
        (idle != 0).then_some((leased, slot))
    }

    /// A leased block comes to lie idle.
    #[inline(always)]
    pub(super) fn put(self, slot: usize, hold: Hold) -> Word {
        Word(self.0 - hold.bits(slot) + (1 << slot << FREE) + ONE_RETURN)
    }

    /// A vacant slot gets a block, which is leased at once.
    pub(super) fn occupy(self, slot: usize, hold: Hold) -> Word {
        Word(self.0 + (1 << slot << OCCUPIED) + hold.bits(slot) + ONE_LEASE)
    }

    /// Slots lose their blocks, of which `returned` were out.
    pub(super) fn vacate(self, slots: Slots, returned: Slots) -> Word {
        let gone = u64::from(slots.0);
        let rest = self.0 & !(gone << OCCUPIED | gone << FREE | gone << OWNED | gone << PINNED);
        Word(rest + u64::from(returned.len()) * ONE_RETURN)
    }

    pub(super) fn closed(self) -> Word {
        Word(self.0 | CLOSED)
    }

    pub(super) fn slow(self, slow: bool) -> Word {
        Word(if slow { self.0 | SLOW } else { self.0 & !SLOW })
    }

    pub(super) fn without_counts(self) -> Word {
        Word(self.0 & !COUNTS)
    }
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots(u8);

impl Slots {
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    #[inline(always)]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn of(slot: usize) -> Self {
        Self(1 << slot)
    }

    pub(crate) fn contains(self, slot: usize) -> bool {
        self.0 >> slot & 1 == 1
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
