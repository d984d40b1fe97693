//! What a connection is charged for besides leases: reservations and streams.

use std::panic::Location;

use super::account::StreamAccount;
use super::attempt::Stop;
use super::lease::{Ask, OnStream};
use super::locked::Locked;
use super::state::{Phase, StreamClass};
use super::{Connection, State};
use crate::error::{BindError, LeaseError};
use crate::magazine::Hold;
use crate::name::Direction;
use crate::priority::Priority;
use crate::scope::{Demand, Named, StreamCharge};
use crate::sync::Arc;
use crate::usage::Tally;

/// Reservations.
impl Connection {
    /// Charges bytes that other code allocates.
    pub(crate) fn reserve(
        &self,
        account: Option<&StreamAccount>,
        bytes: u64,
        priority: Priority,
    ) -> Result<(), LeaseError> {
        let ask = Ask { len: 0, hold: Hold::Owned, account, priority, site: Location::caller() };
        self.attempt_and_count(|attempts| {
            let mut locked = self.lock_open()?;
            let on_stream = OnStream::enter(&mut locked, &ask, bytes)?;
            let stream = on_stream.as_ref().map(|on| on.charge);
            let request = Demand::new(Tally::of_memory(bytes)).at(priority);
            // Entered first, so that the two sides agree on what lies in blocks.
            self.charge(&mut locked, attempts, &request, stream, |_, _| Some(()))?;
            locked.ledger().reserved += bytes;
            if let Some(on_stream) = on_stream {
                on_stream.commit(&mut locked, bytes);
            }
            Ok(())
        })
    }

    /// Takes a reservation off again, unless a close already did.
    pub(crate) fn unreserve(&self, account: Option<&StreamAccount>, bytes: u64) {
        if let Some(account) = account {
            self.give_back(account, bytes);
        }
        let mut locked = self.lock();
        let State { shared, ledger } = &mut *locked.state;
        if let Some(shared) = shared.as_deref()
            && ledger.phase == Phase::Open
        {
            ledger.reserved -= bytes;
            self.credit(shared, ledger, &Tally::of_memory(bytes));
        }
    }
}

/// Streams.
impl Connection {
    /// Counts one more stream, and opens its account.
    pub(crate) fn open_stream(
        &self,
        direction: Direction,
        site: &'static Location<'static>,
    ) -> Result<Arc<StreamAccount>, LeaseError> {
        let opened = (site, self.hot.tick());
        self.attempt_and_count(|attempts| {
            let mut locked = self.lock_open()?;
            locked.ledger().streams_or_new()?.reserve()?;
            let request = Demand::new(Tally::of_stream(direction));
            let stream = Some(StreamCharge { in_use: 0, class: None });
            self.charge(&mut locked, attempts, &request, stream, |_, _| Some(()))?;
            let key = match locked.state.shared.as_deref() {
                Some(shared) => shared.tree.lock().next_stream(),
                None => return Err(Stop::Closed),
            };
            Ok(locked.ledger().streams_or_new()?.open(key, direction, opened))
        })
    }

    /// Charges a stream, and what it holds, to a class besides all else.
    pub(crate) fn bind_stream(&self, account: &StreamAccount, name: &str) -> Result<(), BindError> {
        let name = Named::class(name, &self.hot.hasher)?;
        let bound = self.attempt_and_count(|attempts| {
            let mut locked = self.lock_open()?;
            let bound = self.attempt_bind_stream(&mut locked, account, name, attempts)?;
            if let Some(stream) = locked.ledger().stream_mut(account.key()) {
                stream.bound = true;
                stream.class = bound;
            }
            Ok(())
        });
        bound.map_err(|error| match error {
            BindError::AlreadyBound => BindError::StreamAlreadyBound,
            error => error,
        })
    }

    /// Returns the class, if it is not the connection's, which counts the stream already.
    fn attempt_bind_stream(
        &self,
        locked: &mut Locked<'_>,
        account: &StreamAccount,
        name: Named<'_, str>,
        attempts: &super::attempt::Attempts,
    ) -> Result<Option<StreamClass>, Stop> {
        let State { shared, ledger } = &mut *locked.state;
        let shared = shared.as_deref().ok_or(Stop::Closed)?;
        let stream = ledger.stream_mut(account.key()).ok_or(Stop::Closed)?;
        if stream.bound {
            return Err(Stop::AlreadyBound);
        }
        let counts = stream.counts();
        // Nothing is taken meanwhile; what is returned meanwhile only makes it less.
        let held = account.hold();
        let parents = ledger.parents;
        let mut scopes = shared.tree.lock();
        let class = scopes.hold_class(parents, name)?;
        let of_stream = if parents.class == Some(class) {
            Ok(None)
        } else {
            let request = Demand::new(counts.with_memory(held.in_use()));
            let charge = self.charge_of(ledger, &request, None, scopes.is_observing());
            match scopes.bind_class(class, &charge, || held.set_classed()) {
                Ok(memory) => return Ok(Some(StreamClass { class, memory })),
                // No idle memory of the connection is charged to classes of streams.
                Err(shortfall) => Err(attempts.stop(&mut scopes, &shortfall, 0)),
            }
        };
        scopes.release_class(class, parents);
        of_stream
    }

    /// Counts bytes as returned to a stream's account. Called while the record stays for another
    /// reason: the caller's block is still out, or it has a share.
    #[inline]
    pub(crate) fn give_back(&self, account: &StreamAccount, bytes: u64) {
        let key = account.key();
        if account.put(bytes) {
            self.settle_stream(key, bytes);
        }
    }

    /// Takes returned bytes off the stream's class, and forgets a stream that is closed and drained.
    /// By key: the thread that drained the account may have settled all of it already, and the account
    /// be gone.
    #[cold]
    #[inline(never)]
    fn settle_stream(&self, key: u64, bytes: u64) {
        let mut locked = self.lock();
        let State { shared, ledger } = &mut *locked.state;
        let (open, parents) = (ledger.phase == Phase::Open, ledger.parents);
        if let Some(shared) = shared.as_deref()
            && let Some(stream) = ledger.stream_mut(key)
            && let Some(of) = &mut stream.class
            && open
        {
            let less = bytes.min(of.memory);
            of.memory -= less;
            let class = of.class;
            shared.tree.lock().credit_class(class, parents, &Tally::of_memory(less));
        }
        self.reap_stream(&mut locked, key);
    }

    /// Counts one stream less, unless the guard's end already did, and closes its account.
    pub(crate) fn close_stream(&self, account: &StreamAccount, direction: Direction) {
        account.close();
        let key = account.key();
        let mut locked = self.lock();
        let State { shared, ledger } = &mut *locked.state;
        if let Some(shared) = shared.as_deref()
            && ledger.phase != Phase::Gone
        {
            let parents = ledger.parents;
            let mut class = None;
            if let Some(streams) = ledger.streams_mut() {
                *streams.count_mut(direction) -= 1;
                if let Some(stream) = streams.get_mut(key) {
                    stream.open = false;
                    class = stream.class.map(|of| of.class);
                }
            }
            let one = Tally::of_stream(direction);
            let mut scopes = shared.tree.lock();
            scopes.credit(parents, ledger.standing(), &one);
            if let Some(class) = class {
                scopes.credit_class(class, parents, &one);
            }
        }
        self.reap_stream(&mut locked, key);
    }

    /// Takes out the stream under `key`, if it is closed and drained, and lets go of its class.
    fn reap_stream(&self, locked: &mut Locked<'_>, key: u64) {
        let State { shared, ledger } = &mut *locked.state;
        let parents = ledger.parents;
        let Some(reaped) = ledger.streams_mut().and_then(|streams| streams.reap(key)) else {
            return;
        };
        if let (Some(of), Some(shared)) = (reaped.class, shared.as_deref()) {
            let mut scopes = shared.tree.lock();
            scopes.credit_class(of.class, parents, &Tally::of_memory(of.memory));
            scopes.release_class(of.class, parents);
        }
        ledger.drop_empty_tables();
    }
}
