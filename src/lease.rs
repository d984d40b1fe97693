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

mod borrowed;
mod owned;
mod window;

use std::panic::Location;
use std::ptr::NonNull;

use crate::arena::Class;
use crate::connection::{Connection, Granted, Memory, Seat, StreamAccount};
use crate::error::LeaseError;
use crate::magazine::Hold;
use crate::priority::Priority;
use crate::sync::Watch;
pub use borrowed::Lease;
pub use owned::{OwnedLease, Pinned, PinnedLease};
use window::Window;

/// Leases a block of at least `len` bytes, notes who leased it, and finds its bytes.
///
/// The usual case is one atomic step on the connection's own word. What can be read before it is
/// read before it, since a locked step lets nothing behind it begin.
#[inline(always)]
fn lease(
    connection: &Connection,
    account: Option<&StreamAccount>,
    len: usize,
    hold: Hold,
    site: &'static Location<'static>,
) -> Result<(Seat, Window), LeaseError> {
    let shared = connection.shared();
    let tick = shared.tick();
    if let Some(number) = shared.arena.class_for(len) {
        let class = shared.arena.class(number);
        let capacity = class.block_bytes();
        let leased = match account {
            None => connection.lease_cached(number, hold),
            Some(account) => connection.lease_cached_on_stream(account, number, hold),
        };
        if let Some((seat, block)) = leased {
            return Ok((seat, open(class, capacity, block, site, tick)));
        }
    }
    lease_slowly(connection, account, len, hold, Priority::Critical, site)
        .inspect_err(|error| connection.count_refusal(error))
}

/// As [`lease`], at a priority that has to be weighed each time.
fn lease_at(
    connection: &Connection,
    account: Option<&StreamAccount>,
    len: usize,
    hold: Hold,
    priority: Priority,
    site: &'static Location<'static>,
) -> Result<(Seat, Window), LeaseError> {
    match priority {
        Priority::Critical => lease(connection, account, len, hold, site),
        _ => lease_slowly(connection, account, len, hold, priority, site)
            .inspect_err(|error| connection.count_refusal(error)),
    }
}

#[cold]
#[inline(never)]
fn lease_slowly(
    connection: &Connection,
    account: Option<&StreamAccount>,
    len: usize,
    hold: Hold,
    priority: Priority,
    site: &'static Location<'static>,
) -> Result<(Seat, Window), LeaseError> {
    let Granted { seat, memory } = connection.lease_slowly(len, hold, account, priority)?;
    let shared = connection.shared();
    let tick = shared.tick();
    let window = match memory {
        Memory::Block { class, block } => {
            let class = shared.arena.class(class);
            open(class, class.block_bytes(), block, site, tick)
        }
        Memory::Large { base, bytes } => {
            connection.note_large(seat, site, tick);
            Window::new(base, bytes, Watch::none())
        }
    };
    Ok((seat, window))
}

/// A window on a block that was just leased to the caller.
#[inline(always)]
fn open(
    class: &Class,
    capacity: usize,
    block: u32,
    site: &'static Location<'static>,
    tick: u32,
) -> Window {
    // SAFETY: the caller gives the block back only after the window that is made here is gone.
    let (record, base) = unsafe { class.locate(block) };
    record.note().write(site, tick);
    Window::new(base, capacity, Watch::of(&record.probe))
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
    window: Window,
    /// The stream's account, if it was leased on one. The connection keeps it until all that was
    /// taken from it, this block too, is returned.
    account: Option<NonNull<StreamAccount>>,
}

// SAFETY: `Connection` is `Send + Sync`, and the window's bytes belong to this lease alone while
// its hold allows touching them.
unsafe impl Send for Loan {}
// SAFETY: as above; `&Loan` only reads.
unsafe impl Sync for Loan {}

impl Loan {
    #[inline(always)]
    fn new(
        connection: &Connection,
        account: Option<&StreamAccount>,
        len: usize,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let (seat, window) = lease(connection, account, len, Hold::Pinned, site)?;
        Ok(Self::opened(connection, account, seat, window))
    }

    /// As [`new`](Self::new), at a priority.
    fn new_at(
        connection: &Connection,
        account: Option<&StreamAccount>,
        len: usize,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let (seat, window) = lease_at(connection, account, len, Hold::Pinned, priority, site)?;
        Ok(Self::opened(connection, account, seat, window))
    }

    /// Opens a lease to revocation. Until then it is pinned: a close on another thread could take
    /// the block, and its slab with it, while its bytes are still being found.
    #[inline(always)]
    fn opened(
        connection: &Connection,
        account: Option<&StreamAccount>,
        seat: Seat,
        window: Window,
    ) -> Self {
        let mut loan = Self::of(connection, account, Hold::Pinned, seat, window);
        loan.unpin();
        loan
    }

    #[inline(always)]
    fn of(
        connection: &Connection,
        account: Option<&StreamAccount>,
        hold: Hold,
        seat: Seat,
        window: Window,
    ) -> Self {
        let account = account.map(NonNull::from);
        Self { connection: NonNull::from(connection), seat, hold, window, account }
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

    /// Overwrites the block, if it is still there.
    #[cold]
    fn wipe(&mut self) {
        if !self.connection().is_block(self.window.capacity()) {
            return;
        }
        if self.hold != Hold::Owned || self.try_rehold(Hold::Pinned) {
            self.window.wipe();
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
        let len = self.window.readable().len();
        if len == 0 {
            return bytes::Bytes::new();
        }
        if len < self.window.capacity() / 4
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
        let readable = self.window.readable();
        let capacity = connection.capacity_for(readable.len())?;
        if capacity >= self.window.capacity() {
            return None;
        }
        let site = connection.site_of(self.seat)?;
        // Not a refusal if there is no room: nobody asked for it.
        let (account, hold) = (self.account, Hold::Detached);
        let priority = Priority::Critical;
        let leased = lease_slowly(connection, self.account(), readable.len(), hold, priority, site);
        let (seat, window) = leased.ok()?;
        let mut copy = Loan { connection: self.connection, seat, hold, window, account };
        copy.window.append(readable);
        Some(copy)
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
            self.connection().give_back(account, self.window.capacity() as u64);
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
        self.0.window.readable()
    }
}
