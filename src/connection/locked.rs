//! A connection, locked: its side of a charge and the scopes' change in one step.

use std::net::IpAddr;

use super::attempt::{Attempts, Spare, Stop};
use super::state::{Ledger, Phase};
use super::{Connection, Shared, State};
use crate::arena::Anchored;
use crate::error::{Refused, Scope};
use crate::magazine::Extra;
use crate::name::Source;
use crate::scope::{
    Charge, Demand, Idle, OwnBlocks, OwnIdle, Parents, Partition, Scopes, Shortfall, StreamCharge,
    StreamShare,
};
use crate::subnet::{Retired, Visit};
use crate::sync::{Arc, MutexGuard, TreeGuard};
use crate::usage::Tally;

/// A connection's state, locked, and behind the lock what has to be dropped after it.
pub(crate) struct Locked<'a> {
    pub(super) state: MutexGuard<'a, State>,
    pub(super) leftovers: Leftovers,
}

/// What may run any code, or free the record, as it is dropped: after the lock, and after the last use
/// of the record.
#[derive(Default)]
#[must_use = "the record may go with it: drop it after the last use of the reference"]
pub(crate) struct Leftovers {
    /// A share in the record, so that none that is dropped under the lock is the last, and the mutex
    /// outlives the call that lets go of it.
    share: Option<Arc<Connection>>,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) extra: Option<Anchored<Extra>>,
    retired: Option<Retired>,
}

/// The scopes, locked.
pub(super) type LockedScopes<'a> = TreeGuard<'a, Scopes<Arc<Connection>>>;

/// A connection's ledger and the scopes, both locked: what is charged changes on both sides at once.
pub(super) struct Sides<'a> {
    pub(super) connection: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) ledger: &'a mut Ledger,
    /// Dropped before the scopes are let go.
    spare: Spare<'a>,
    pub(super) scopes: LockedScopes<'a>,
    leftovers: &'a mut Leftovers,
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

impl Leftovers {
    pub(super) fn keep(&mut self, share: Option<Arc<Connection>>) {
        if let Some(share) = share {
            self.share.get_or_insert(share);
        }
    }
}

impl Locked<'_> {
    pub(super) fn ledger(&mut self) -> &mut Ledger {
        &mut self.state.ledger
    }

    /// The governor's side and the connection's, until nothing is charged any more.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> Result<(&Shared, &mut Ledger), Stop> {
        let State { shared, ledger } = &mut *self.state;
        Ok((shared.as_deref().ok_or(Stop::Closed)?, ledger))
    }

    /// Lets go of the lock.
    pub(super) fn unlock(self) -> Leftovers {
        self.leftovers
    }

    /// Does something without the lock.
    pub(super) fn without_lock<'a>(
        self,
        connection: &'a Connection,
        work: impl FnOnce(),
    ) -> Locked<'a> {
        let leftovers = self.unlock();
        work();
        Locked { leftovers, ..connection.lock() }
    }

    /// Locks the scopes too.
    #[inline(always)]
    pub(super) fn sides<'a>(&'a mut self, connection: &'a Connection) -> Result<Sides<'a>, Stop> {
        let State { shared, ledger } = &mut *self.state;
        let shared = shared.as_deref().ok_or(Stop::Closed)?;
        let scopes = shared.tree.lock();
        let (spare, leftovers) = (Spare::none(&shared.arena), &mut self.leftovers);
        Ok(Sides { connection, shared, ledger, spare, scopes, leftovers })
    }
}

/// Charging.
impl Sides<'_> {
    /// Charges `request` to the connection and every scope above it, or to nothing. `take` obtains
    /// what is charged for, under the tree's lock, after every check; if it returns `None`, nothing is
    /// charged. If there is no room in the ordinary system, a connection that the allow list covers
    /// moves to the other in the same step: else one system could have room when the other is looked
    /// at, and the other when the one is.
    pub(super) fn charge<T>(
        &mut self,
        attempts: &Attempts,
        request: &Demand,
        stream: Option<StreamCharge>,
        mut take: impl FnMut(&Shared, &mut Ledger, &Spare<'_>) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        let taken = match self.enter(self.ledger.parents, request, stream, &[], &mut take) {
            Ok(taken) => taken,
            Err(shortfall) => self.insist_on(attempts, request, stream, shortfall, &mut take)?,
        };
        if taken.is_some() {
            self.ledger.memory += request.usage.memory - request.idle_bytes;
            self.ledger.marks.raise_peak(self.ledger.memory);
        }
        Ok(taken)
    }

    /// Charges what a first try found no room for.
    #[cold]
    fn insist_on<T>(
        &mut self,
        attempts: &Attempts,
        request: &Demand,
        stream: Option<StreamCharge>,
        shortfall: Shortfall,
        take: &mut dyn FnMut(&Shared, &mut Ledger, &Spare<'_>) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        let (lent, before) = (request.idle_bytes, self.ledger.memory);
        let mut first = Some(shortfall);
        let mut enter = |sides: &mut Self, to| {
            sides.insist(attempts, lent, |sides| {
                // An idle block that is to be leased may have given way itself, to be charged as a
                // fresh one.
                if lent > 0 && sides.ledger.memory < before {
                    return Ok(None);
                }
                match first.take() {
                    Some(shortfall) => Err(shortfall),
                    None => sides.enter(to, request, stream, &[], &mut *take),
                }
            })
        };
        match enter(self, self.ledger.parents) {
            Err(Stop::Refused(refused))
                if matches!(refused.scope(), Scope::System | Scope::Transient) =>
            {
                let ip = self.connection.ip(self.ledger);
                self.or_allowlisted(refused, ip, enter)
            }
            ordinary => ordinary,
        }
    }

    /// Tries the scopes of the allow list, if it covers a connection from `ip`, where the ordinary
    /// ones refused. Once it is there, its address counts it no longer.
    pub(super) fn or_allowlisted<T>(
        &mut self,
        refused: Refused,
        ip: Option<IpAddr>,
        enter: impl FnOnce(&mut Self, Parents) -> Result<Option<T>, Stop>,
    ) -> Result<Option<T>, Stop> {
        let parents = self.ledger.parents;
        if !self.scopes.is_allowlisted(parents, ip) {
            return Err(refused.into());
        }
        let moved = enter(self, parents.within(Partition::Allowlisted))
            .map_err(|stop| stop.instead(refused.with_fallback(true)))?;
        if moved.is_some() {
            self.leave_address();
        }
        Ok(moved)
    }

    /// Moves the connection, and its streams' shares, to scopes that are held; or changes nothing.
    pub(super) fn move_to(
        &mut self,
        to: Parents,
        streams: &[StreamShare],
        attempts: &Attempts,
    ) -> Result<Option<()>, Stop> {
        let nothing = Demand::new(Tally::default());
        self.insist(attempts, 0, |sides| {
            sides.enter(to, &nothing, None, streams, |_, _, _| Some(()))
        })
    }

    /// Attempts until there is room, or it is sure that there is none. Idle blocks of the
    /// connection's own give way at once, but for the one of `lent` bytes that is asked for; those of
    /// others are a reason to stop and reclaim them.
    fn insist<T>(
        &mut self,
        attempts: &Attempts,
        lent: u64,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Shortfall>,
    ) -> Result<T, Stop> {
        loop {
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(shortfall) => self.make_room(attempts, lent, &shortfall)?,
            }
        }
    }

    #[cold]
    fn make_room(
        &mut self,
        attempts: &Attempts,
        lent: u64,
        shortfall: &Shortfall,
    ) -> Result<(), Stop> {
        let Shortfall { refused, at, enters } = shortfall;
        let counts = match at {
            Some(at) => at.counts(self.ledger.parents),
            None => refused.scope() == Scope::Connection,
        };
        let look = |of: &Self| of.connection.own_idle(of.ledger);
        let looked = if counts { look(self) } else { Idle::default() };
        let own_idle = looked.bytes.saturating_sub(lent);
        let helps = if *enters {
            // The scope is asked for the idle blocks too.
            refused.missing_bytes_of(refused.requested().saturating_sub(own_idle)).is_some()
        } else {
            refused.missing_bytes().is_some_and(|bytes| bytes <= own_idle)
        };
        let mut then_slow = false;
        if own_idle == 0 || !helps {
            let mut own = OwnBlocks { id: self.connection.serial, ..OwnBlocks::default() };
            if counts && !enters {
                // Those that are out are known not to be idle.
                let out = self.ledger.usage().cacheable - own_idle;
                let extra = self.connection.extra_idle(self.ledger).bytes;
                own = OwnBlocks { idle: own_idle, out, lent, extra, ..own };
            }
            match self.stop(attempts, shortfall, own) {
                Stop::Taken => {
                    // A block that is not leased may empty a slab.
                    attempts.has_flushed.set(true);
                    return Ok(());
                }
                Stop::Reclaim(..) if own.idle > 0 => {}
                // Own blocks moved between the looks, which may both have missed one that lay idle. The
                // next look finds none that moves.
                Stop::Refused(_) if counts && looked != look(self) => then_slow = true,
                stop => return Err(stop),
            }
        }
        attempts.has_flushed.set(true);
        self.flush(then_slow, |_| true);
        Ok(())
    }

    /// What a shortfall comes to.
    pub(super) fn stop(&mut self, attempts: &Attempts, short: &Shortfall, own: OwnBlocks) -> Stop {
        attempts.stop(&mut self.scopes, short, own, &self.spare)
    }

    /// Charges `request`, and moves the connection to the scopes `to` if it is not there yet; or
    /// changes nothing.
    #[inline(always)]
    fn enter<T>(
        &mut self,
        to: Parents,
        request: &Demand,
        stream: Option<StreamCharge>,
        streams: &[StreamShare],
        mut take: impl FnMut(&Shared, &mut Ledger, &Spare<'_>) -> Option<T>,
    ) -> Result<Option<T>, Shortfall> {
        let charge = self.charge_of(request, stream);
        let Self { shared, ledger, spare, scopes, .. } = self;
        let taken = scopes.charge(&charge, to, streams, || take(shared, ledger, spare))?;
        if taken.is_some() {
            ledger.parents = to;
        }
        Ok(taken)
    }

    #[inline]
    pub(super) fn charge_of<'r>(
        &self,
        request: &'r Demand,
        stream: Option<StreamCharge>,
    ) -> Charge<'r> {
        let Self { connection, ledger, scopes, .. } = self;
        let mut bytes = 0;
        if scopes.is_observing() {
            // The block that is asked for makes no room for itself.
            bytes = connection.own_idle(ledger).bytes.saturating_sub(request.idle_bytes);
        }
        let idle = OwnIdle { id: connection.serial, bytes };
        Charge { idle, parents: ledger.parents, own: ledger.usage(), request, stream }
    }

    /// Takes memory off the connection and the scopes.
    #[inline]
    pub(super) fn credit(&mut self, less: &Tally) {
        self.ledger.memory -= less.memory;
        self.scopes.credit(self.ledger.parents, less);
    }

    /// Lists the connection as one that may keep idle blocks, unless a scope above bars that.
    pub(super) fn start_caching(&mut self) {
        let Self { connection, ledger, scopes, .. } = self;
        if !ledger.caching
            && let Some(me) = &ledger.keep
        {
            ledger.caching = scopes.list(connection.serial, me, ledger.parents);
            if ledger.caching {
                ledger.marks.set_kept();
            }
        }
    }

    pub(super) fn stop_caching(&mut self) {
        if std::mem::take(&mut self.ledger.caching) {
            self.scopes.unlist(self.connection.serial, self.ledger.parents);
        }
    }

    /// Counts the connection at the address that was compared with the limits, if any was.
    pub(super) fn arrive(&mut self, visit: &Visit) {
        self.leftovers.retired = Some(self.scopes.admit_visit(visit));
        if visit.counts() {
            self.ledger.marks.set_counted(true);
        }
    }

    /// The address that counts the connection does so no longer.
    pub(super) fn leave_address(&mut self) {
        if self.ledger.marks.take_counted()
            && let Some(from) = self.connection.ip(self.ledger)
        {
            self.scopes.subnets.leave(self.shared.tree.address(from));
        }
    }
}
