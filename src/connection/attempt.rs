//! Try under the locks, do without them what stands in the way, try again.
//!
//! An attempt either succeeds or says what stopped it. What can be cured is cured with no lock held:
//! a slab is mapped, idle blocks of other connections are reclaimed. It ends: mapping hands its first
//! block to the request that asked for it, and while a request reclaims from a scope the list of
//! members below it only shrinks.

use std::cell::Cell;
use std::time::Duration;

use super::locked::LockedScopes;
use super::{Connection, Shared};
use crate::arena::{Arena, Block};
use crate::error::{BindError, LeaseError, Refused};
use crate::magazine::Extra;
use crate::scope::{Member, ScopeRef, Shortfall};
use crate::sync::Arc;
use crate::try_box::{OutOfMemory, TryBox};

/// What stopped an attempt.
pub(super) enum Stop {
    /// For good: a limit.
    Refused(Refused),
    /// For good: the connection, or the stream, is closed.
    Closed,
    /// For good: it is bound to a peer or a class already.
    AlreadyBound,
    /// A slab of this size class has to be mapped.
    Map(usize),
    /// This many bytes have to be mapped for a large lease.
    MapLarge(usize),
    /// The time is needed. A clock may run any code, so it is read with no lock held.
    Time,
    /// Idle blocks may stand in the way in this scope, which would refuse with this.
    Reclaim(ScopeRef, Refused),
}

impl Stop {
    /// The same, but refused for another reason if it is refused.
    pub(super) fn instead(self, refused: Refused) -> Self {
        match self {
            Stop::Refused(_) => Stop::Refused(refused),
            stop => stop,
        }
    }
}

impl From<OutOfMemory> for Stop {
    fn from(error: OutOfMemory) -> Self {
        Stop::Refused(error.into())
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(refused)
    }
}

impl From<Stop> for LeaseError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refused) => refused.into(),
            _ => LeaseError::Closed,
        }
    }
}

impl From<Stop> for BindError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refused) => refused.into(),
            Stop::AlreadyBound => BindError::AlreadyBound,
            _ => BindError::Closed,
        }
    }
}

/// What a request has brought along from between its attempts. What is left is given back.
#[derive(Default)]
pub(super) struct Attempts {
    /// Where it was brought from.
    shared: Option<Arc<Shared>>,
    pub(super) block: Option<(usize, Block)>,
    pub(super) large: Option<TryBox<Extra>>,
    pub(super) now: Option<Duration>,
    /// Below these scopes no connection starts to keep blocks until the request is over.
    reclaiming: Vec<ScopeRef>,
    /// In these scopes too little is idle.
    in_vain: Vec<ScopeRef>,
    /// Whether idle blocks of the connection's own were given up.
    pub(super) has_flushed: Cell<bool>,
}

impl Attempts {
    /// Attempts until it succeeds or stops for good. Call with no lock held.
    pub(super) fn run<T>(
        &mut self,
        shared: impl Fn() -> Option<Arc<Shared>>,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        loop {
            match attempt(self) {
                Ok(granted) => return Ok(granted),
                Err(stop) => self.cure(stop, &shared)?,
            }
        }
    }

    /// What a shortfall comes to: whether reclaiming idle blocks may cure it, of which `own_out` bytes
    /// are known not to be idle.
    pub(super) fn stop(
        &self,
        scopes: &mut LockedScopes<'_>,
        shortfall: &Shortfall,
        own_out: u64,
    ) -> Stop {
        let Shortfall { refused, at, .. } = shortfall;
        match at {
            Some(at) if !self.in_vain.contains(at) && scopes.is_curable(*at, refused, own_out) => {
                Stop::Reclaim(*at, *refused)
            }
            _ => Stop::Refused(*refused),
        }
    }

    #[cold]
    fn cure(&mut self, stop: Stop, shared: &impl Fn() -> Option<Arc<Shared>>) -> Result<(), Stop> {
        if matches!(stop, Stop::Refused(_) | Stop::Closed | Stop::AlreadyBound) {
            return Err(stop);
        }
        if self.shared.is_none() {
            self.shared = shared();
        }
        let shared = self.shared.clone().ok_or(Stop::Closed)?;
        match stop {
            Stop::Map(class) => {
                self.block = Some((class, ask_arena(&shared, |arena| arena.grow(class))?));
            }
            Stop::MapLarge(bytes) => {
                let map = |arena: &Arena| Extra::of_large(bytes, || arena.map_large(bytes));
                self.large = Some(ask_arena(&shared, map)?);
            }
            Stop::Time => self.now = Some(shared.read_clock()),
            Stop::Reclaim(at, refused) => self.reclaim(&shared, at, &refused)?,
            stop => return Err(stop),
        }
        Ok(())
    }

    /// Takes idle blocks in a scope, as many as are missing, if there are as many.
    fn reclaim(&mut self, shared: &Shared, at: ScopeRef, refused: &Refused) -> Result<(), Stop> {
        /// A scope with no more members than this is swept even if not enough seems to be idle: a
        /// block may have come to lie idle in one while another was looked at.
        const FEW: usize = 32;
        if !self.reclaiming.contains(&at) {
            self.reclaiming.try_reserve(1).map_err(|_| Stop::Refused(*refused))?;
            if shared.tree.begin_reclaim(at) {
                self.reclaiming.push(at);
            }
        }
        let missing = refused.missing_bytes().unwrap_or(0);
        let mut idle = 0;
        if shared.tree.member_count(at) > FEW {
            shared.tree.for_each_member(at, |member| {
                idle += member.idle_bytes();
                idle < missing
            });
        }
        let mut swept = false;
        if idle >= missing || shared.tree.member_count(at) <= FEW {
            let mut freed = 0;
            while freed < missing
                && let Some(member) = shared.tree.any_member(at)
            {
                freed += member.sweep();
                swept = true;
            }
        }
        if !swept {
            self.in_vain.try_reserve(1).map_err(|_| Stop::Refused(*refused))?;
            self.in_vain.push(at);
        }
        shared.arena.settle();
        Ok(())
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        if let Some((class, block)) = self.block.take() {
            shared.arena.give(class, block);
        }
        if let Some(mapping) = self.large.take().and_then(|extra| extra.take_returned_large()) {
            shared.arena.unmap_large(mapping);
        }
        for at in self.reclaiming.drain(..) {
            shared.tree.end_reclaim(at);
        }
        shared.arena.settle();
    }
}

/// Asks the arena for memory. Before it refuses, because too much is resident or the system has no
/// more, the idle blocks of all connections go back to it: those may be what keeps pages from being
/// given up.
fn ask_arena<T>(shared: &Shared, ask: impl Fn(&Arena) -> Result<T, Refused>) -> Result<T, Refused> {
    ask(&shared.arena).or_else(|_| {
        shared.reclaim_all();
        ask(&shared.arena)
    })
}

impl Connection {
    /// [Attempts](Attempts::run) something on the connection.
    pub(super) fn attempt<T>(
        &self,
        attempt: impl FnMut(&mut Attempts) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        #[cfg(feature = "testing")]
        if let Some(shared) = self.lock().state.shared.as_deref() {
            shared.faults.request()?;
        }
        let mut attempts = Attempts::default();
        let done = attempts.run(|| self.lock().state.shared.clone(), attempt);
        if done.is_err() || attempts.has_flushed.get() {
            // Tables and magazines that were made for nothing, or emptied to make room.
            let mut locked = self.lock();
            self.remove_over(&mut locked);
            drop(self.unlock(locked));
        }
        done
    }

    /// As [`attempt`](Self::attempt), and counts a refusal.
    pub(super) fn attempt_and_count<T, E: From<Stop>>(
        &self,
        attempt: impl FnMut(&mut Attempts) -> Result<T, Stop>,
    ) -> Result<T, E> {
        self.attempt(attempt).map_err(|stop| {
            if let Stop::Refused(refused) = &stop {
                self.count_refusal(refused);
            }
            E::from(stop)
        })
    }

    /// Counts a refusal that reaches the caller.
    #[cold]
    pub(crate) fn count_refusal(&self, refused: &Refused) {
        let shared = self.lock().state.shared.clone();
        if let Some(shared) = shared {
            shared.count_refusal(refused);
        }
    }
}
