//! Buffers on loan.
//!
//! | | borrowed [`Lease`] | [`OwnedLease`] | [`PinnedLease`] | [`Bytes`](bytes::Bytes) |
//! |---|---|---|---|---|
//! | lives | as long as its guard, checked at compile time | as long as you like | as long as you like | as long as you like |
//! | when the connection closes | gone before its guard; kept until it drops if the close is from outside | revoked, unless pinned | kept until it drops | kept until the last clone drops |
//! | touching the bytes | directly | through [`pin`](OwnedLease::pin) | directly | directly, shared, read-only |
//! | costs | two atomic steps | two, and two for each pin | two, and one to become it | as before, and one allocation |
//!
//! Take the first that fits, from the left: what stands further right lives longer, and memory
//! that lives longer than its connection is what this crate exists to prevent.
//!
//! **Promise.** Safe code reads no byte that was not written through the very lease that it reads
//! from: blocks keep what their last user left, so a lease shows only what was written since it was
//! made. And it touches no block after that was returned: a borrowed lease cannot outlive its guard,
//! and an owned one is touched only while pinned, which a close leaves alone.
//!
//! **Where the bytes are** is found only by a lease whose block no close can take: the way leads
//! through the arena's directory and the block's record, which stay exactly as long as some block of
//! the slab is out. A borrowed lease looks as soon as it is made. An owned one may be revoked from
//! its first moment on, so it looks at its first [`pin`](OwnedLease::pin), after the step that pins.
//! Until then it has a number and no address, so that making it is one step and not a third, to pin
//! it meanwhile. The number is still its block's when a pin succeeds: a slot gets another block
//! only after this lease has given its own back, or never, once a close has taken it, for a closed
//! connection gets no more. And after a close no pin succeeds, so an address that was found
//! before it is kept in vain and used no more.

mod borrowed;
mod owned;
mod place;
mod view;

use std::fmt;
use std::ptr::NonNull;

use crate::arena::Mapping;
use crate::connection::{Ask, Connection, Granted, Home, Hot, Memory, StreamAccount};
use crate::error::LeaseError;
use crate::magazine::{Extra, Hold, Magazine, SlotRef};
use crate::priority::Priority;
use crate::sync::Watch;
pub use borrowed::Lease;
pub use owned::{OwnedLease, Pinned, PinnedLease};
use place::{Place, Sought};
use view::BufferView;

/// Leases an idle block of the connection's first magazine. `None` sends the caller the [slow
/// way](lease_counted).
///
/// It is one atomic step on the connection's own word. What can be read before it is read before it,
/// since a locked step lets nothing behind it begin. Below the highest priority a lease is checked
/// against the limits each time.
#[inline(always)]
fn lease_idle(connection: &Connection, hot: &Hot, ask: &Ask<'_>) -> Option<(SlotRef, Sought)> {
    let tick = hot.tick();
    if ask.priority != Priority::Critical {
        return None;
    }
    let class = hot.sizes.for_len(ask.len)?;
    let (slot, number) = match ask.account {
        None => connection.lease_cached(class, ask.hold)?,
        Some(account) => connection.lease_cached_on_stream(account, class, ask.hold)?,
    };
    Some((slot, Sought::new(class, number, ask.site, tick)))
}

/// As [`lease_slowly`]; a refusal is counted.
#[cold]
#[inline(never)]
fn lease_counted(connection: &Connection, ask: Ask<'_>) -> Result<(SlotRef, Place), LeaseError> {
    lease_slowly(connection, ask).inspect_err(|error| {
        if let Some(refused) = error.refused() {
            connection.count_refusal(refused);
        }
    })
}

/// Leases in the way that finds or makes a block.
fn lease_slowly(connection: &Connection, ask: Ask<'_>) -> Result<(SlotRef, Place), LeaseError> {
    let Granted { slot, memory } = connection.lease_slowly(&ask)?;
    let place = match memory {
        Memory::Block { class, number } => {
            Place::Sought(Sought::new(class, number, ask.site, connection.hot().tick()))
        }
        Memory::Large { base, bytes } => {
            // SAFETY: the mapping was leased to the caller, and is of that size. A lease uses the
            // view only while its hold allows touching the bytes, as with a block's.
            Place::Found(unsafe { BufferView::new(base, bytes, Watch::none()) })
        }
    };
    Ok((slot, place))
}

/// Returns a block the slow way.
///
/// # Safety
///
/// As for [`magazine`]. This is the last use of the slot.
#[cold]
#[inline(never)]
unsafe fn put_slowly(connection: NonNull<Connection>, slot: SlotRef, hold: Hold) {
    // SAFETY: by the caller's promise; what is borrowed here is not used after the return.
    let leftovers = unsafe {
        let connection = connection.as_ref();
        let locked = connection.put_slowly(home(connection, slot), slot.slot(), hold);
        connection.unlock(locked)
    };
    // They may hold the last share of the record.
    drop(leftovers);
}

/// How much to lease for a block of the next size above `capacity`: beyond the largest size class,
/// twice as much.
fn next_larger(connection: &Connection, capacity: usize) -> usize {
    match connection.hot().sizes.for_len(capacity + 1) {
        Some(_) => capacity + 1,
        None => capacity.saturating_mul(2),
    }
}

/// Whether a lease of this capacity has a block, and not a mapping of its own, which needs no wiping:
/// the system never shows it to another user.
fn is_block(connection: &Connection, capacity: usize) -> bool {
    connection.hot().sizes.for_len(capacity).is_some()
}

/// The magazine of a lease's slot.
///
/// # Safety
///
/// The slot was leased on a connection whose record is alive, and either its block is still out or the
/// lease is a straggler of the connection's close that has not dropped: each of these keeps the
/// magazine where it is.
#[inline(always)]
unsafe fn magazine<'a>(slot: SlotRef) -> &'a Magazine {
    // SAFETY: the address is that of a magazine, or of an `Extra`, of which it is the first part; it is
    // alive by the caller's promise.
    unsafe { &*slot.address().cast::<Magazine>() }
}

/// Which magazine of its connection that is.
///
/// # Safety
///
/// As for [`magazine`].
#[inline]
unsafe fn home<'a>(connection: &'a Connection, slot: SlotRef) -> Home<'a> {
    match connection.first_magazine(slot) {
        Some(class) => Home::First(class),
        // SAFETY: a magazine that is none of the connection's first ones is that of an `Extra`, whose
        // address this is.
        None => Home::Extra(unsafe { &*slot.address().cast::<Extra>() }),
    }
}

/// A lease that no borrow ties to its guard.
///
/// It holds a bare pointer to its connection's record and pays no reference count for it. While
/// the connection is open the guard keeps the record; a close counts this lease among those that
/// are still out, and the record stays until the last of them has dropped.
struct Loan {
    connection: NonNull<Connection>,
    slot: SlotRef,
    /// How the block is held, as far as this lease knows: a close takes an owned block without
    /// asking, and tells at the next step.
    hold: Hold,
    /// [Found](Place::Found) before the hold is anything but [owned](Hold::Owned).
    place: Place,
    /// The stream's account, if it was leased on one. The connection keeps it until all that was
    /// taken from it, this block too, is returned.
    account: Option<NonNull<StreamAccount>>,
}

#[cfg(all(not(leasehold_loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<Loan>() == 64);

// SAFETY: `Connection` is `Send + Sync`, and the view's bytes belong to this lease alone while
// its hold allows touching them.
unsafe impl Send for Loan {}
// SAFETY: as above; `&Loan` only reads.
unsafe impl Sync for Loan {}

impl Loan {
    /// Leases as `ask` says.
    #[inline(always)]
    fn new(connection: &Connection, ask: Ask<'_>) -> Result<Self, LeaseError> {
        let leased = match lease_idle(connection, connection.hot(), &ask) {
            Some((slot, sought)) => (slot, Place::Sought(sought)),
            None => lease_counted(connection, ask)?,
        };
        Ok(Self::of(connection, ask, leased))
    }

    /// What was leased as `ask` said.
    #[inline(always)]
    fn of(connection: &Connection, ask: Ask<'_>, (slot, place): (SlotRef, Place)) -> Self {
        let (connection, account) = (NonNull::from(connection), ask.account.map(NonNull::from));
        Self { connection, slot, hold: ask.hold, place, account }
    }

    #[inline]
    fn connection(&self) -> &Connection {
        // SAFETY: the record outlives this lease; see the type's docs.
        unsafe { self.connection.as_ref() }
    }

    fn account(&self) -> Option<&StreamAccount> {
        // SAFETY: the connection keeps the account until this lease has returned its bytes, which
        // happens once, in `drop`; and the record keeps the table of accounts.
        self.account.map(|account| unsafe { account.as_ref() })
    }

    #[inline(always)]
    fn magazine(&self) -> &Magazine {
        // SAFETY: this lease has not dropped, so its block is out, or a close has counted it.
        unsafe { magazine(self.slot) }
    }

    fn home(&self) -> Home<'_> {
        // SAFETY: as above.
        unsafe { home(self.connection(), self.slot) }
    }

    /// Changes an owned block's hold; `false` if a close has taken it.
    #[inline]
    fn try_rehold(&mut self, to: Hold) -> bool {
        let held = self.magazine().try_rehold(self.slot.slot(), self.hold, to);
        if held {
            self.hold = to;
        }
        held
    }

    /// Pins an owned block, if it is still there, and finds its bytes unless an earlier pin did.
    #[inline(always)]
    fn try_pin(&mut self) -> bool {
        debug_assert!(self.hold == Hold::Owned);
        if !self.try_rehold(Hold::Pinned) {
            return false;
        }
        // The step found that no close had taken the block.
        self.find();
        true
    }

    /// Finds the bytes of a block that is pinned or detached, unless an earlier call did.
    #[inline(always)]
    fn find(&mut self) {
        debug_assert!(matches!(self.hold, Hold::Pinned | Hold::Detached));
        if let Place::Sought(sought) = self.place {
            let hot = self.connection().hot();
            // SAFETY: no close takes the block before this lease lets go of it. Its hold says so, and
            // what touches the view looks at that first (`Pinned`, `PinnedLease` and `Detached`
            // exist only while it is held; `wipe` pins it). The number is that of its block in its
            // size class.
            self.place = Place::Found(unsafe { sought.find(hot.lookup) });
        }
    }

    #[inline(always)]
    fn view(&self) -> &BufferView {
        self.place.view()
    }

    #[inline(always)]
    fn view_mut(&mut self) -> &mut BufferView {
        self.place.view_mut()
    }

    #[inline(always)]
    fn capacity(&self) -> usize {
        match &self.place {
            Place::Found(view) => view.capacity(),
            Place::Sought(sought) => self.connection().hot().sizes.block_bytes(sought.class()),
        }
    }

    /// Overwrites the block, if it is still there.
    #[cold]
    fn wipe(&mut self) {
        // What was not found was not written to either, and was overwritten when it last came back.
        let is_untouched = matches!(self.place, Place::Sought(_));
        if is_untouched || !is_block(self.connection(), self.capacity()) {
            return;
        }
        if self.hold != Hold::Owned || self.try_pin() {
            self.view_mut().wipe();
        }
    }

    /// Lets go of a pin. If the connection closed meanwhile, the block goes back here.
    #[inline]
    fn unpin(&mut self) {
        let before = self.magazine().rehold(self.slot.slot(), Hold::Pinned, Hold::Owned);
        self.hold = Hold::Owned;
        if before.is_closed() {
            self.take_back();
        }
    }

    /// Gives the block of a closed connection back; the lease lives on, revoked.
    #[cold]
    fn take_back(&self) {
        let locked = self.connection().reclaim_unpinned(self.home(), self.slot.slot());
        drop(self.connection().unlock(locked));
    }

    /// An earlier pin was forgotten, never dropped.
    #[cold]
    #[inline(never)]
    fn unpin_forgotten(&mut self) {
        self.unpin();
    }

    /// Turns a borrowed or pinned block into the owner of a `Bytes`, in the smallest block that
    /// fits if a quarter of this one would do.
    fn detach(mut self) -> bytes::Bytes {
        debug_assert!(self.hold == Hold::Pinned);
        let len = self.view().readable().len();
        if len == 0 {
            return bytes::Bytes::new();
        }
        if len < self.capacity() / 4
            && let Some(smaller) = self.copy_into_smaller()
        {
            drop(self);
            return bytes::Bytes::from_owner(Detached(smaller));
        }
        self.magazine().rehold(self.slot.slot(), self.hold, Hold::Detached);
        self.hold = Hold::Detached;
        bytes::Bytes::from_owner(Detached(self))
    }

    /// A copy in a smaller block, if there is a smaller size class and room for it.
    fn copy_into_smaller(&self) -> Option<Loan> {
        let (connection, account) = (self.connection(), self.account());
        let readable = self.view().readable();
        let sizes = connection.hot().sizes;
        let capacity = match sizes.for_len(readable.len()) {
            Some(class) => sizes.block_bytes(class),
            None => Mapping::round_up(readable.len())?,
        };
        if capacity >= self.capacity() {
            return None;
        }
        let (len, hold, priority) = (readable.len(), Hold::Detached, Priority::Critical);
        let site = connection.site_of(self.home(), self.slot)?;
        // Not counted as a refusal if there is no room: the caller did not ask for it.
        let ask = Ask { len, hold, account, priority, site };
        let mut copy = Loan::of(connection, ask, lease_slowly(connection, ask).ok()?);
        copy.find();
        copy.view_mut().append(readable);
        Some(copy)
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Found(view) => view.fmt(f),
            Place::Sought(_) => write!(f, "0 of {} bytes", self.capacity()),
        }
    }
}

impl Drop for Loan {
    #[inline]
    fn drop(&mut self) {
        if self.connection().hot().zero_on_return {
            self.wipe();
        }
        // First, while the block is still out and so keeps the record and the account.
        if let Some(account) = self.account() {
            self.connection().give_back(account, self.capacity() as u64);
        }
        // Once the block is put back nothing keeps the record, so all that is borrowed from it then
        // is the magazine, which is atomics through and through.
        if !self.magazine().try_put(self.slot.slot(), self.hold) {
            // SAFETY: nothing has changed: the block is still out, or a close has counted this lease.
            unsafe { put_slowly(self.connection, self.slot, self.hold) };
        }
    }
}

/// What keeps the memory behind a `Bytes`.
struct Detached(Loan);

impl AsRef<[u8]> for Detached {
    fn as_ref(&self) -> &[u8] {
        self.0.view().readable()
    }
}
