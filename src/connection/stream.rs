//! What a connection is charged for besides leases: reservations and streams.

use std::panic::Location;

use super::Connection;
use super::account::StreamAccount;
use super::attempt::Stop;
use super::lease::{Ask, OnStream};
use super::locked::{Locked, Sides};
use super::state::{Phase, StreamClass};
use crate::error::{BindError, LeaseError};
use crate::magazine::Hold;
use crate::name::Direction;
use crate::priority::Priority;
use crate::scope::{Demand, Named, OwnBlocks, StreamCharge};
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
            locked.sides(self)?.charge(attempts, &request, stream, |_, _, _| Some(()))?;
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
        if let Ok(mut locked) = self.lock_open() {
            locked.ledger().reserved -= bytes;
            if let Ok(mut sides) = locked.sides(self) {
                sides.credit(&Tally::of_memory(bytes));
            }
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
            let mut sides = locked.sides(self)?;
            sides.charge(attempts, &request, stream, |_, _, _| Some(()))?;
            let key = sides.scopes.next_stream();
            drop(sides);
            Ok(locked.ledger().streams_or_new()?.open(key, direction, opened))
        })
    }

    /// Charges a stream, and what it holds, to a class besides all else.
    pub(crate) fn bind_stream(&self, account: &StreamAccount, name: &str) -> Result<(), BindError> {
        let name = Named::new(name.as_bytes(), &self.hot.hasher)?;
        let bound = self.attempt_and_count(|attempts| {
            let mut locked = self.lock_open()?;
            let stream = locked.ledger().stream_mut(account.key()).ok_or(Stop::Closed)?;
            if stream.bound {
                return Err(Stop::AlreadyBound);
            }
            let counts = stream.counts();
            // Nothing is taken meanwhile; what is returned meanwhile only makes it less.
            let held = account.hold();
            let mut sides = locked.sides(self)?;
            let parents = sides.ledger.parents;
            let class = sides.scopes.hold_class(parents, name)?;
            let mut of_stream = None;
            let mut done = Ok(());
            // The connection's own class counts the stream already.
            if parents.class != Some(class) {
                let request = Demand::new(counts.with_memory(held.in_use()));
                let charge = sides.charge_of(&request, None);
                match sides.scopes.bind_class(class, &charge, || held.set_classed()) {
                    Ok(memory) => of_stream = Some(StreamClass { class, memory }),
                    // No idle memory of the connection is charged to classes of streams.
                    Err(shortfall) => {
                        done = Err(sides.stop(attempts, &shortfall, OwnBlocks::default()))
                    }
                }
            }
            if of_stream.is_none() {
                sides.scopes.release_class(class, parents);
            }
            done?;
            if let Some(stream) = sides.ledger.stream_mut(account.key()) {
                stream.bound = true;
                stream.class = of_stream;
            }
            Ok(())
        });
        bound.map_err(|error| match error {
            BindError::AlreadyBound => BindError::StreamAlreadyBound,
            error => error,
        })
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
        if let Ok((shared, ledger)) = locked.parts()
            && ledger.phase == Phase::Open
        {
            let parents = ledger.parents;
            if let Some(of) = ledger.stream_mut(key).and_then(|stream| stream.class.as_mut()) {
                let less = bytes.min(of.memory);
                of.memory -= less;
                shared.tree.lock().credit_class(of.class, parents, &Tally::of_memory(less));
            }
        }
        self.reap_stream(&mut locked, key);
    }

    /// Counts one stream less, unless the guard's end already did, and closes its account.
    pub(crate) fn close_stream(&self, account: &StreamAccount, direction: Direction) {
        account.close();
        let key = account.key();
        let mut locked = self.lock();
        if locked.ledger().phase != Phase::Gone
            && let Ok(Sides { ledger, mut scopes, .. }) = locked.sides(self)
        {
            let (parents, one) = (ledger.parents, Tally::of_stream(direction));
            scopes.credit(parents, &one);
            if let Some(streams) = ledger.streams_mut() {
                *streams.count_mut(direction) -= 1;
                if let Some(stream) = streams.get_mut(key) {
                    stream.open = false;
                    if let Some(of) = stream.class {
                        scopes.credit_class(of.class, parents, &one);
                    }
                }
            }
        }
        self.reap_stream(&mut locked, key);
    }

    /// Takes out the stream under `key`, if it is closed and drained, and lets go of its class.
    fn reap_stream(&self, locked: &mut Locked<'_>, key: u64) {
        let ledger = locked.ledger();
        let parents = ledger.parents;
        let Some(reaped) = ledger.streams_mut().and_then(|streams| streams.reap(key)) else {
            return;
        };
        ledger.drop_empty_tables();
        if let (Some(of), Some(shared)) = (reaped.class, locked.state.shared.as_deref()) {
            let mut scopes = shared.tree.lock();
            scopes.credit_class(of.class, parents, &Tally::of_memory(of.memory));
            scopes.release_class(of.class, parents);
        }
    }
}
