//! A connection, locked: its side of a charge and the scopes' change in one step.

use std::net::IpAddr;
use std::task::Waker;

use super::attempt::{Attempts, Stop};
use super::state::{Ledger, Phase};
use super::{Connection, Shared, State, WakerKey};
use crate::error::Scope;
use crate::name::Source;
use crate::scope::{Charge, Demand, OwnIdle, Partition, Scopes, Shortfall, StreamCharge};
use crate::subnet::Retired;
use crate::sync::{Arc, MutexGuard, TreeGuard};
use crate::try_box::TryBox;
use crate::usage::Tally;

/// A connection's state, locked, and behind the lock what has to be dropped after it.
pub(super) struct Locked<'a> {
    pub(super) state: MutexGuard<'a, State>,
    pub(super) leftovers: Leftovers,
}

/// What may run any code, or free the record, as it is dropped: after the lock, and after the last use
/// of the record.
#[derive(Default)]
#[must_use = "the record may go with it: drop it after the last use of the reference"]
pub(crate) struct Leftovers {
    pub(super) extra: Option<TryBox<crate::magazine::Extra>>,
    pub(super) retired: Option<Retired>,
    pub(super) registered: Option<Arc<Connection>>,
    pub(super) keep: Option<Arc<Connection>>,
    /// A share in the record, for as long as a straggler works on it.
    pub(super) share: Option<Arc<Connection>>,
    pub(super) shared: Option<Arc<Shared>>,
}

/// The scopes, locked.
pub(super) type LockedScopes<'a> = TreeGuard<'a, Scopes<Arc<Connection>>>;

impl Locked<'_> {
    pub(super) fn ledger(&mut self) -> &mut Ledger {
        &mut self.state.ledger
    }

    /// The waker that is registered under a key.
    pub(super) fn waker_mut(&mut self, key: Option<WakerKey>) -> Option<&mut Waker> {
        let Ledger { waker, tables, .. } = &mut self.state.ledger;
        match key? {
            WakerKey::First => waker.as_mut(),
            WakerKey::Further(key) => tables.as_mut()?.wakers.as_mut()?.get_mut(key),
        }
    }

    /// Lets go of the lock.
    pub(super) fn unlock(self) -> Leftovers {
        self.leftovers
    }
}

impl Connection {
    #[inline(always)]
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { state: self.state.lock(), leftovers: Leftovers::default() }
    }

    /// For a request, which only an open connection grants.
    #[inline(always)]
    pub(super) fn lock_open(&self) -> Result<Locked<'_>, Stop> {
        let locked = self.lock();
        if locked.state.ledger.phase == Phase::Open { Ok(locked) } else { Err(Stop::Closed) }
    }

    /// Charges `request` to the connection and every scope above it, or to nothing. `take` obtains
    /// what is charged for, under the tree's lock, after every check; if it returns `None`, nothing is
    /// charged. If there is no room in the ordinary system, a connection that the allow list covers
    /// moves to the other in the same step: else one system could have room when the other is looked
    /// at, and the other when the one is.
    pub(super) fn charge<T>(
        &self,
        locked: &mut Locked<'_>,
        attempts: &Attempts,
        request: &Demand,
        stream: Option<StreamCharge>,
        mut take: impl FnMut(&Shared, &mut Ledger) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        let State { shared, ledger } = &mut *locked.state;
        let shared = shared.as_deref().ok_or(Stop::Closed)?;
        let mut scopes = shared.tree.lock();
        let (lent, before) = (request.idle_bytes, ledger.memory);
        // An idle block that is to be leased may have given way itself, to be charged as a fresh one.
        let gave_way = |ledger: &Ledger| lent > 0 && ledger.memory < before;
        let ordinary =
            self.insist(shared, ledger, &mut scopes, attempts, lent, |scopes, ledger| {
                if gave_way(ledger) {
                    return Ok(None);
                }
                let charge = self.charge_of(ledger, request, stream, scopes.is_observing());
                scopes.charge(&charge, || take(shared, ledger))
            });
        let taken = match ordinary {
            Err(Stop::Refused(refused))
                if matches!(refused.scope(), Scope::System | Scope::Transient)
                    && scopes.is_allowlisted(ledger.parents, self.ip(ledger)) =>
            {
                let refused = refused.with_fallback(true);
                let scopes = &mut scopes;
                let moved =
                    self.insist(shared, ledger, scopes, attempts, lent, |scopes, ledger| {
                        if gave_way(ledger) {
                            return Ok(None);
                        }
                        let to = ledger.parents.within(Partition::Allowlisted);
                        let charge = self.charge_of(ledger, request, stream, scopes.is_observing());
                        let moved = scopes.relocate(to, &charge, &[], || take(shared, ledger))?;
                        if moved.is_some() {
                            ledger.parents = to;
                        }
                        Ok(moved)
                    });
                if let Ok(Some(_)) = moved {
                    self.leave_address(shared, ledger, scopes);
                }
                moved.map_err(|stop| stop.instead(refused))?
            }
            ordinary => ordinary?,
        };
        if taken.is_some() {
            ledger.memory += request.usage.memory - request.idle_bytes;
            ledger.marks.raise_peak(ledger.memory);
            if request.usage.cacheable > 0 {
                self.start_caching(ledger, &mut scopes);
            }
        }
        Ok(taken)
    }

    /// Attempts until there is room, or it is sure that there is none. Idle blocks of the
    /// connection's own give way at once, but for the one of `lent` bytes that is asked for; those of
    /// others are a reason to stop and reclaim them.
    pub(super) fn insist<T>(
        &self,
        shared: &Shared,
        ledger: &mut Ledger,
        scopes: &mut LockedScopes<'_>,
        attempts: &Attempts,
        lent: u64,
        mut attempt: impl FnMut(&mut LockedScopes<'_>, &mut Ledger) -> Result<T, Shortfall>,
    ) -> Result<T, Stop> {
        loop {
            let shortfall = match attempt(scopes, ledger) {
                Ok(done) => return Ok(done),
                Err(shortfall) => shortfall,
            };
            let counts = self.own_idle_counts(ledger, &shortfall);
            let own_idle = if counts { self.idle_bytes(ledger).saturating_sub(lent) } else { 0 };
            let Shortfall { refused, enters, .. } = shortfall;
            // Blocks of one's own that are out are known not to be idle.
            let own_out = if counts && !enters { ledger.usage().cacheable - own_idle } else { 0 };
            let stop = attempts.stop(scopes, &shortfall, own_out);
            let helps = if enters {
                // The scope is asked for the idle blocks too.
                refused.missing_bytes_of(refused.requested().saturating_sub(own_idle)).is_some()
            } else {
                let missing = refused.missing_bytes();
                missing.is_some_and(|bytes| bytes <= own_idle || matches!(stop, Stop::Reclaim(..)))
            };
            if own_idle == 0 || !helps {
                return Err(stop);
            }
            attempts.has_flushed.set(true);
            self.flush_idle(shared, ledger, scopes, false);
        }
    }

    #[inline]
    pub(super) fn charge_of<'r>(
        &self,
        ledger: &Ledger,
        request: &'r Demand,
        stream: Option<StreamCharge>,
        is_observed: bool,
    ) -> Charge<'r> {
        let (parents, own) = (ledger.parents, ledger.usage());
        let bytes = if is_observed { self.idle_bytes(ledger) } else { 0 };
        Charge { idle: OwnIdle { id: self.serial, bytes }, parents, own, request, stream }
    }

    /// Takes memory off the connection and the scopes.
    #[inline]
    pub(super) fn credit(&self, shared: &Shared, ledger: &mut Ledger, less: &Tally) {
        ledger.memory -= less.memory;
        shared.tree.lock().credit(ledger.parents, ledger.standing(), less);
    }

    /// Whether idle blocks of the connection's own are charged to the scope that has no room.
    fn own_idle_counts(&self, ledger: &Ledger, shortfall: &Shortfall) -> bool {
        match shortfall.at {
            Some(at) => at.counts(ledger.parents),
            None => shortfall.refused.scope() == Scope::Connection,
        }
    }

    /// Lists the connection as one that may keep idle blocks, unless a scope above bars that.
    pub(super) fn start_caching(&self, ledger: &mut Ledger, scopes: &mut LockedScopes<'_>) {
        if !ledger.caching
            && let Some(me) = &ledger.keep
        {
            ledger.caching = scopes.list(self.serial, me, ledger.parents);
        }
    }

    /// The address that the connection had counts it no longer.
    pub(super) fn leave_address(
        &self,
        shared: &Shared,
        ledger: &mut Ledger,
        scopes: &mut LockedScopes<'_>,
    ) {
        let was_counted = ledger.marks.is_counted();
        ledger.marks.set_counted(false);
        if was_counted && let Some(from) = self.ip(ledger) {
            scopes.subnets.leave(shared.tree.address(from));
        }
    }

    pub(super) fn source(&self, ledger: &Ledger) -> Option<Source> {
        let other = ledger.tables.as_ref().and_then(|tables| tables.source.as_deref().cloned());
        other.or_else(|| self.remote.source())
    }

    pub(super) fn ip(&self, ledger: &Ledger) -> Option<IpAddr> {
        match ledger.tables.as_ref().and_then(|tables| tables.source.as_deref()) {
            Some(source) => source.ip(),
            None => self.remote.ip(),
        }
    }
}
