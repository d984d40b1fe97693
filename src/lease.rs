//! Buffers on loan.
//!
//! | | borrowed [`Lease`] | [`OwnedLease`] | [`PinnedLease`] | [`Bytes`](bytes::Bytes) |
//! |---|---|---|---|---|
//! | lives | as long as its guard, checked at compile time | as long as you like | as long as you like | as long as you like |
//! | when the connection closes | cannot happen before the lease is gone | revoked | kept until it drops | kept until the last clone drops |
//! | touching the bytes | directly | through [`pin`](OwnedLease::pin) | directly | directly, shared, read-only |
//! | costs | two atomic steps | two, and two for each pin | two, and one to become it | as before, and one allocation |
//!
//! Take the first that fits, from the left: what stands further right lives longer, and memory
//! that lives longer than its connection is what this crate exists to prevent.
//!
//! **Promise.** Nobody reads, through safe code, a byte that was not written through the very lease
//! it is read from: blocks keep what their last user left, so a lease shows only what was written
//! since it was made. And nobody touches a block after it was returned: a borrowed lease cannot
//! outlive its guard, and an owned one is touched only while pinned, which a close leaves alone.
//!
//! **Where the bytes are** is found only by a lease whose block nobody else can take: the way leads
//! through the arena's directory and the block's record, which stay exactly as long as some block of
//! the slab is out. A borrowed lease looks as soon as it is made. An owned one may be revoked from
//! its first moment on, so it looks at its first [`pin`](OwnedLease::pin), after the step that pins.
//! Until then it has a number and no address, so that making it is one step and not a third, to pin
//! it meanwhile. The number is still its block's when a pin succeeds: a slot or key gets another
//! block only after this lease has given its own back, or never, once a close has taken it, for a
//! closed connection gets no more. And after a close no pin succeeds, so an address that was found
//! before it is kept in vain and used no more.

mod borrowed;
mod owned;
mod place;
mod window;

use std::fmt;
use std::panic::Location;
use std::ptr::NonNull;

use crate::connection::{Connection, Granted, Memory, Seat, StreamAccount};
use crate::error::LeaseError;
use crate::magazine::Hold;
use crate::priority::Priority;
use crate::sync::Watch;
pub use borrowed::Lease;
pub use owned::{OwnedLease, Pinned, PinnedLease};
use place::{Leased, Place, Sought};
use window::Window;

/// Leases a block of at least `len` bytes, and answers what `open` makes of it: whether its bytes may
/// be looked for already depends on the hold.
///
/// The usual case is one atomic step on the connection's own word. What can be read before it is
/// read before it, since a locked step lets nothing behind it begin. Below the highest priority a
/// lease has to be weighed each time.
#[inline(always)]
fn lease<T>(
    connection: &Connection,
    account: Option<&StreamAccount>,
    len: usize,
    hold: Hold,
    priority: Priority,
    site: &'static Location<'static>,
    open: impl FnOnce(Leased<'_>) -> T,
) -> Result<(Seat, T), LeaseError> {
    let shared = connection.shared();
    let tick = shared.tick();
    if priority == Priority::Critical
        && let Some(number) = shared.arena.class_for(len)
    {
        let class = shared.arena.class(number);
        let leased = match account {
            None => connection.lease_cached(number, hold),
            Some(account) => connection.lease_cached_on_stream(account, number, hold),
        };
        if let Some((seat, block)) = leased {
            let sought = Sought::new(number, block, site, tick);
            return Ok((seat, open(Leased::Block(class, sought))));
        }
    }
    lease_slowly(connection, account, len, hold, priority, site, open)
        .inspect_err(|error| connection.count_refusal(error))
}

#[cold]
#[inline(never)]
fn lease_slowly<T>(
    connection: &Connection,
    account: Option<&StreamAccount>,
    len: usize,
    hold: Hold,
    priority: Priority,
    site: &'static Location<'static>,
    open: impl FnOnce(Leased<'_>) -> T,
) -> Result<(Seat, T), LeaseError> {
    let Granted { seat, memory } = connection.lease_slowly(len, hold, account, priority, site)?;
    let shared = connection.shared();
    let leased = match memory {
        Memory::Block { class, block } => {
            let sought = Sought::new(class, block, site, shared.tick());
            Leased::Block(shared.arena.class(class), sought)
        }
        Memory::Large { base, bytes } => Leased::Large(Window::new(base, bytes, Watch::none())),
    };
    Ok((seat, open(leased)))
}

/// A lease that no borrow ties to its guard.
///
/// It holds a bare pointer to its connection's record and pays no reference count for it. While
/// the connection is open the guard keeps the record; a close counts this lease among those that
/// are still out, and the record stays until the last of them has dropped.
struct Loan {
    connection: NonNull<Connection>,
    seat: Seat,
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

// SAFETY: `Connection` is `Send + Sync`, and the window's bytes belong to this lease alone while
// its hold allows touching them.
unsafe impl Send for Loan {}
// SAFETY: as above; `&Loan` only reads.
unsafe impl Sync for Loan {}

impl Loan {
    /// A lease that is owned, and so may be revoked already.
    #[inline(always)]
    fn owned(
        connection: &Connection,
        account: Option<&StreamAccount>,
        (seat, place): (Seat, Place),
    ) -> Self {
        let (connection, account) = (NonNull::from(connection), account.map(NonNull::from));
        Self { connection, seat, hold: Hold::Owned, place, account }
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

    /// Changes an owned block's hold; `false` if a close has taken it.
    #[inline]
    fn try_rehold(&mut self, to: Hold) -> bool {
        let held = self.connection().try_rehold(self.seat, self.hold, to);
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
        if let Place::Sought(sought) = self.place {
            let class = self.connection().shared().arena.class(sought.class());
            // SAFETY: the step above found that no close had taken the block, and pinned it: now none
            // does before this lease lets go of it. Its hold says so, and whoever touches the window
            // looks at that first (`Pinned`, `PinnedLease` and `Detached` exist only while it is
            // held; `wipe` pins it). The class is the one that it was leased from.
            self.place = Place::Found(unsafe { sought.find(class) });
        }
        true
    }

    #[inline(always)]
    fn window(&self) -> &Window {
        self.place.window()
    }

    #[inline(always)]
    fn window_mut(&mut self) -> &mut Window {
        self.place.window_mut()
    }

    #[inline(always)]
    fn capacity(&self) -> usize {
        match &self.place {
            Place::Found(window) => window.capacity(),
            Place::Sought(sought) => self.connection().shared().arena.block_bytes(sought.class()),
        }
    }

    /// Overwrites the block, if it is still there.
    #[cold]
    fn wipe(&mut self) {
        // What was not found was not written to either, and was overwritten when it last came back.
        let is_untouched = matches!(self.place, Place::Sought(_));
        if is_untouched || !self.connection().is_block(self.capacity()) {
            return;
        }
        if self.hold != Hold::Owned || self.try_pin() {
            self.window_mut().wipe();
        }
    }

    #[inline]
    fn unpin(&mut self) {
        self.connection().unpin(self.seat);
        self.hold = Hold::Owned;
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
        let len = self.window().readable().len();
        if len == 0 {
            return bytes::Bytes::new();
        }
        if len < self.capacity() / 4
            && let Some(smaller) = self.copy_into_smaller()
        {
            drop(self);
            return bytes::Bytes::from_owner(Detached(smaller));
        }
        self.connection().rehold(self.seat, self.hold, Hold::Detached);
        self.hold = Hold::Detached;
        bytes::Bytes::from_owner(Detached(self))
    }

    /// A copy in a smaller block, if there is a smaller class and room for it.
    fn copy_into_smaller(&self) -> Option<Loan> {
        let connection = self.connection();
        let readable = self.window().readable();
        let capacity = connection.capacity_for(readable.len())?;
        if capacity >= self.capacity() {
            return None;
        }
        let site = connection.site_of(self.seat)?;
        // Not a refusal if there is no room: nobody asked for it.
        let (account, hold) = (self.account, Hold::Detached);
        let priority = Priority::Critical;
        let len = readable.len();
        let leased =
            lease_slowly(connection, self.account(), len, hold, priority, site, |leased| {
                // SAFETY: a close leaves what is detached, and `copy` returns it as its window goes.
                Place::Found(unsafe { leased.find() })
            });
        let (seat, place) = leased.ok()?;
        let mut copy = Loan { connection: self.connection, seat, hold, place, account };
        copy.window_mut().append(readable);
        Some(copy)
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Found(window) => window.fmt(f),
            Place::Sought(_) => write!(f, "0 of {} bytes", self.capacity()),
        }
    }
}

impl Drop for Loan {
    #[inline]
    fn drop(&mut self) {
        if self.connection().shared().arena.zero_on_return() {
            self.wipe();
        }
        // First, while the block is still out and so keeps the record and the account.
        if let Some(account) = self.account() {
            self.connection().give_back(account, self.capacity() as u64);
        }
        // Once the block is put back nothing keeps the record, so all that is borrowed from it then
        // is the magazine, which is atomics through and through.
        let put = match self.connection().slot_of(self.seat) {
            Some((magazine, slot)) => magazine.try_put(slot, self.hold),
            None => false,
        };
        if !put {
            let share = self.connection().put_slowly(self.seat);
            drop(share);
        }
    }
}

/// What keeps the memory behind a `Bytes`.
struct Detached(Loan);

impl AsRef<[u8]> for Detached {
    fn as_ref(&self) -> &[u8] {
        self.0.window().readable()
    }
}
