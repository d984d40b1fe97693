//! What a connection is charged for besides leases: its own existence, a peer, reservations,
//! streams.

use super::Connection;
use super::account::StreamAccount;
use super::attempt::{Halt, Halted};
use super::ledger::Phase;
use crate::error::{BindError, LeaseError, Refused, Scope};
use crate::name::Direction;
use crate::sync::Arc;
use crate::usage::Usage;

impl Connection {
    /// Charges the connection itself and enters it in the registry; or charges nothing.
    pub(crate) fn admit(this: &Arc<Self>, weight_bytes: u64) -> Result<(), Refused> {
        let admitted = this.run_counted(|errand| {
            let mut ledger = this.ledger.lock();
            let more = Usage { memory: weight_bytes, ..ledger.counts() };
            this.charge(&mut ledger, &more, errand)?;
            ledger.admitted = true;
            ledger.reserved += weight_bytes;
            Ok(())
        });
        match admitted {
            Ok(()) => {
                this.shared.registry.insert(this.clone());
                this.shared.tallies.lock().admitted += 1;
                Ok(())
            }
            Err(Halted::Refused(refused)) => {
                this.abandon();
                Err(refused)
            }
            Err(Halted::Closed) => unreachable!("nobody knows the connection, so nobody closed it"),
        }
    }

    /// Gives up a record that was never admitted.
    fn abandon(&self) {
        let mut ledger = self.ledger.lock();
        let (peer, class) = (ledger.place.peer.take(), ledger.place.class.take());
        let keep = ledger.keep.take();
        drop(ledger);
        self.release(peer, class);
        drop(keep);
    }

    /// Moves everything the connection has from the transient scope to a peer's.
    pub(crate) fn bind(&self, key: &[u8]) -> Result<(), BindError> {
        let peer = self.shared.tree.peer(key)?;
        let bound = self.run_counted(|errand| {
            let mut guard = self.ledger.lock();
            let ledger = &mut *guard;
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            if ledger.place.peer.is_some() {
                return Ok(false);
            }
            loop {
                let usage = ledger.usage();
                let tree = &self.shared.tree;
                match tree.bind(&ledger.place, &peer, &usage, self.id) {
                    Ok(()) => break,
                    Err((_, victim)) if self.flush(ledger) > 0 => errand.drop_later(victim),
                    Err((refused, victim)) => {
                        return Err(errand.overcome(refused, victim, Some(&peer), None));
                    }
                }
            }
            ledger.place.peer = Some(peer.clone());
            Ok(true)
        });
        match bound {
            Ok(true) => return Ok(()),
            Ok(false) => self.release(Some(peer), None),
            Err(error) => {
                self.release(Some(peer), None);
                return Err(match error {
                    Halted::Refused(refused) => BindError::Refused(refused),
                    Halted::Closed => BindError::Closed,
                });
            }
        }
        Err(BindError::AlreadyBound)
    }

    /// Charges bytes that someone else allocates.
    pub(crate) fn reserve(
        &self,
        account: Option<&StreamAccount>,
        bytes: u64,
    ) -> Result<(), LeaseError> {
        let reserved = self.run_counted(|errand| {
            let entry = self.enter(account, bytes)?;
            let mut ledger = self.ledger.lock();
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            self.charge(&mut ledger, &Usage::of_memory(bytes), errand)?;
            ledger.reserved += bytes;
            drop(ledger);
            if let Some(entry) = entry {
                entry.commit();
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
            self.line(&ledger.place, ledger.phase).credit(&Usage::of_memory(bytes));
        }
    }

    /// Counts bytes as returned to a stream's account. Called while the record stays for another
    /// reason: the caller's block is still out, or it has a share.
    #[inline]
    pub(crate) fn give_back(&self, account: &StreamAccount, bytes: u64) {
        let key = account.key();
        if account.put(bytes) {
            self.reap_account(key);
        }
    }

    /// Forgets a stream's account that is closed and drained. By key: the account itself may be
    /// gone, and the key may be another's, which then is looked at in vain.
    #[cold]
    #[inline(never)]
    fn reap_account(&self, key: u32) {
        let mut ledger = self.ledger.lock();
        let reaped = ledger.reap_account(key);
        drop(ledger);
        drop(reaped);
    }

    /// Counts one more stream, and opens its account.
    pub(crate) fn open_stream(
        &self,
        direction: Direction,
    ) -> Result<Arc<StreamAccount>, LeaseError> {
        let opened = self.run_counted(|errand| {
            let mut ledger = self.ledger.lock();
            if ledger.phase != Phase::Open {
                return Err(Halt::Closed);
            }
            let more = one_stream(direction);
            let limits = self.shared.tree.limits();
            limits.stream.check(Scope::Stream, &Usage::default(), &more).map_err(Halt::Refused)?;
            self.charge(&mut ledger, &more, errand)?;
            *ledger.streams_mut(direction) += 1;
            Ok(ledger.open_account())
        });
        opened.map_err(LeaseError::from)
    }

    /// Counts one stream less, unless the guard's end already did, and closes its account.
    pub(crate) fn close_stream(&self, account: &StreamAccount, direction: Direction) {
        account.close();
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Gone {
            *ledger.streams_mut(direction) -= 1;
            self.line(&ledger.place, ledger.phase).credit(&one_stream(direction));
        }
        let reaped = ledger.reap_account(account.key());
        drop(guard);
        drop(reaped);
    }
}

fn one_stream(direction: Direction) -> Usage {
    match direction {
        Direction::Inbound => Usage { streams_inbound: 1, ..Usage::default() },
        Direction::Outbound => Usage { streams_outbound: 1, ..Usage::default() },
    }
}
