//! What a connection is charged for besides leases: reservations and streams.

use super::Connection;
use super::account::StreamAccount;
use super::errand::Halt;
use super::ledger::{Ledger, Phase, Stream, StreamClass};
use crate::error::{BindError, LeaseError};
use crate::name::Direction;
use crate::priority::Priority;
use crate::scope::{Hashed, Request};
use crate::sync::Arc;
use crate::usage::Tally;

/// Reservations.
impl Connection {
    /// Charges bytes that someone else allocates.
    pub(crate) fn reserve(
        &self,
        account: Option<&StreamAccount>,
        bytes: u64,
        priority: Priority,
    ) -> Result<(), LeaseError> {
        let reserved = self.shared.run(|| {
            let entry = self.enter(account, bytes, priority)?;
            let mut ledger = self.lock_open()?;
            let request = Request::new(Tally::of_memory(bytes)).at(priority);
            self.charge(&mut ledger, entry.as_ref(), &request)?;
            ledger.reserved += bytes;
            drop(ledger);
            if let Some(entered) = entry {
                entered.commit();
            }
            Ok(())
        });
        reserved.map_err(LeaseError::from)
    }

    /// Takes a reservation off again, unless a close already did.
    pub(crate) fn unreserve(&self, account: Option<&StreamAccount>, bytes: u64) {
        if let Some(account) = account {
            self.give_back(account, bytes);
        }
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase == Phase::Open {
            ledger.reserved -= bytes;
            ledger.memory -= bytes;
            self.line(ledger).credit(&Tally::of_memory(bytes));
        }
    }
}

/// Streams.
impl Connection {
    /// Counts one more stream, and opens its account.
    pub(crate) fn open_stream(
        &self,
        direction: Direction,
    ) -> Result<Arc<StreamAccount>, LeaseError> {
        let opened = self.shared.run(|| {
            let mut ledger = self.lock_open()?;
            let more = Tally::of_stream(direction);
            self.charge(&mut ledger, None, &Request::new(more))?;
            *ledger.streams_mut(direction) += 1;
            Ok(ledger.open_stream(direction))
        });
        opened.map_err(LeaseError::from)
    }

    /// Charges a stream, and what it holds, to a class besides all else.
    pub(crate) fn bind_stream(&self, account: &StreamAccount, name: &str) -> Result<(), BindError> {
        let name = self.shared.tree.class_name(name)?;
        let newly = self.shared.run(|| self.attempt_bind_stream(account, name))?;
        if newly { Ok(()) } else { Err(BindError::AlreadyBound) }
    }

    fn attempt_bind_stream(
        &self,
        account: &StreamAccount,
        name: Hashed<'_, str>,
    ) -> Result<bool, Halt> {
        // Nobody takes more meanwhile; what is returned meanwhile only makes it less.
        let entrance = account.hold_entrance();
        let mut guard = self.lock_open()?;
        let ledger = &mut *guard;
        let stream = ledger.stream_mut(account.key()).ok_or(Halt::Closed)?;
        if stream.bound {
            return Ok(false);
        }
        let counts = stream.counts();
        let mut line = self.line(ledger);
        let class = line.hold_stream(name);
        // Its connection's class counts it already.
        let is_own = ledger.place.class == Some(class);
        let of_stream = if is_own {
            None
        } else {
            let request = Request::new(counts.with_memory(entrance.in_use()));
            // No idle memory of the connection is charged to classes of streams.
            let met =
                line.insist(|_| None, |line, excused| line.check_stream(class, &request, excused));
            Some(met.map(|()| {
                let memory = entrance.set_classed();
                line.charge_stream(class, &Request::new(counts.with_memory(memory)));
                StreamClass { class, memory }
            }))
        };
        if !matches!(of_stream, Some(Ok(_))) {
            let vacated = line.release_stream(class);
            drop(line);
            drop(vacated);
        }
        let class = of_stream.transpose()?;
        if let Some(stream) = ledger.stream_mut(account.key()) {
            stream.bound = true;
            stream.class = class;
        }
        Ok(true)
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

    /// Takes returned bytes off the stream's class, and forgets a stream that is closed and
    /// drained. By key: whoever drained the account may have settled all of it already, and the
    /// account be gone.
    #[cold]
    #[inline(never)]
    fn settle_stream(&self, key: u32, bytes: u64) {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let open = ledger.phase == Phase::Open;
        if let Some(stream) = ledger.stream_mut(key)
            && let Some(of) = &mut stream.class
            && open
        {
            let less = bytes.min(of.memory);
            of.memory -= less;
            let class = of.class;
            self.line(ledger).credit_stream(class, &Tally::of_memory(less));
        }
        let reaped = self.reap_stream(ledger, key);
        drop(guard);
        drop(reaped);
    }

    /// Counts one stream less, unless the guard's end already did, and closes its account.
    pub(crate) fn close_stream(&self, account: &StreamAccount, direction: Direction) {
        account.close();
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let key = account.key();
        if ledger.phase != Phase::Gone {
            *ledger.streams_mut(direction) -= 1;
            let mut line = self.line(ledger);
            line.credit(&Tally::of_stream(direction));
            if let Some(stream) = ledger.stream_mut(key) {
                stream.open = false;
                if let Some(of) = stream.class {
                    line.credit_stream(of.class, &Tally::of_stream(direction));
                }
            }
        }
        let reaped = self.reap_stream(ledger, key);
        drop(guard);
        drop(reaped);
    }

    /// Takes out the stream under `key`, if it is closed and drained, and lets go of its class.
    fn reap_stream(&self, ledger: &mut Ledger, key: u32) -> Option<Stream> {
        let reaped = ledger.reap_stream(key)?;
        if let Some(of) = reaped.class {
            let mut line = self.line(ledger);
            line.credit_stream(of.class, &Tally::of_memory(of.memory));
            let vacated = line.release_stream(of.class);
            drop(line);
            drop(vacated);
        }
        Some(reaped)
    }
}
