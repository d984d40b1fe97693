//! Try under the locks, do without them what stands in the way, try again.
//!
//! An attempt either succeeds or says what stopped it. What can be cured is cured with no lock held:
//! a slab is mapped, idle blocks of other connections are reclaimed. It ends: mapping hands its first
//! block to the request that asked for it, and while a request reclaims from a scope no connection
//! below starts to keep blocks.

use std::cell::Cell;
use std::time::Duration;

use super::locked::LockedScopes;
use super::{Connection, Shared, State};
use crate::arena::{Anchored, Arena, Block};
use crate::error::{BindError, LeaseError, Refused};
use crate::magazine::Extra;
use crate::scope::{Member, OwnBlocks, Parents, Relief, ScopeRef, Shortfall};
use crate::sync::Arc;
use crate::try_box::OutOfMemory;

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
    /// An idle block of another connection stood in the way, and was taken.
    Taken,
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

/// A block that another connection kept idle, at hand for the request that it was taken for. If the
/// request does not lease it, it goes to the arena in the same turn of the tree's lock, so that the arena
/// is never short of a block that a request holds which is refused.
pub(super) struct Spare<'a> {
    arena: &'a Arena,
    block: Cell<Option<(usize, Block)>>,
}

impl<'a> Spare<'a> {
    pub(super) fn none(arena: &'a Arena) -> Self {
        Self { arena, block: Cell::new(None) }
    }

    fn put(&self, class: usize, block: Block) {
        if let Some((class, block)) = self.block.replace(Some((class, block))) {
            self.arena.give(class, block);
        }
    }

    pub(super) fn take(&self, class: usize) -> Option<Block> {
        let (of, block) = self.block.take()?;
        if of == class {
            return Some(block);
        }
        self.arena.give(of, block);
        None
    }
}

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        if let Some((class, block)) = self.block.take() {
            self.arena.give(class, block);
        }
    }
}

/// What a request has brought along from between its attempts. What is left is given back.
#[derive(Default)]
pub(super) struct Attempts {
    /// Where it was brought from.
    shared: Option<Arc<Shared>>,
    pub(super) block: Option<(usize, Block)>,
    pub(super) large: Option<Anchored<Extra>>,
    pub(super) now: Option<Duration>,
    /// Below these scopes no connection starts to keep blocks until the request is over. `true`: too
    /// little is idle there.
    reclaiming: Vec<(ScopeRef, bool)>,
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

    /// What a shortfall comes to: whether idle blocks of other connections can cure it, or did.
    pub(super) fn stop(
        &self,
        scopes: &mut LockedScopes<'_>,
        shortfall: &Shortfall,
        own: OwnBlocks,
        spare: &Spare<'_>,
    ) -> Stop {
        let Shortfall { refused, at, .. } = *shortfall;
        let (Some(at), Some(missing)) = (at, refused.missing_bytes()) else {
            return Stop::Refused(refused);
        };
        match scopes.relieve(at, missing, own, |member| member.yield_idle(missing, spare)) {
            Relief::Taken => Stop::Taken,
            Relief::Perhaps if !self.reclaiming.contains(&(at, true)) => Stop::Reclaim(at, refused),
            Relief::Perhaps | Relief::None => Stop::Refused(refused),
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
                let bytes = shared.hot.sizes.block_bytes(class);
                let block = ask_arena(&shared, bytes, |arena| arena.grow(class))?;
                self.block = Some((class, block));
            }
            Stop::MapLarge(bytes) => {
                let map = |arena: &Arena| Extra::of_large(bytes, || arena.map_large(bytes));
                self.large = Some(ask_arena(&shared, bytes, map)?);
            }
            Stop::Time => self.now = Some(shared.read_clock()),
            Stop::Taken => {}
            Stop::Reclaim(at, refused) => self.reclaim(&shared, at, &refused)?,
            stop => return Err(stop),
        }
        Ok(())
    }

    /// Takes idle blocks in a scope, as many as are missing, if there are as many.
    fn reclaim(&mut self, shared: &Shared, at: ScopeRef, refused: &Refused) -> Result<(), Stop> {
        let missing = refused.missing_bytes().unwrap_or(0);
        let begun = self.reclaiming.iter().position(|(scope, _)| *scope == at);
        let nth = begun.unwrap_or(self.reclaiming.len());
        if begun.is_none() {
            self.reclaiming.try_reserve(1).map_err(|_| Stop::Refused(*refused))?;
            if !shared.tree.begin_reclaim(at) {
                return Ok(());
            }
            self.reclaiming.push((at, false));
        }
        let crowded = shared.tree.is_crowded(at);
        let mut freed = 0;
        if !crowded || shared.tree.has_idle(at, missing) {
            // Of few members all, for blocks may come to lie idle in one while others are swept.
            freed = shared.sweep(at, missing, |member| !crowded || member.idle().bytes > 0);
        }
        self.reclaiming[nth].1 = crowded && freed == 0;
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
        for (at, _) in self.reclaiming.drain(..) {
            shared.tree.end_reclaim(at);
        }
        shared.arena.settle();
    }
}

/// Asks the arena for memory. Before it refuses, because too much is resident or the system has no
/// more, idle blocks of connections go back to it, since those may be what keeps pages from being given
/// up: as many bytes as are asked for, then twice as many, until the arena has enough or none is idle.
fn ask_arena<T>(
    shared: &Shared,
    bytes: usize,
    ask: impl Fn(&Arena) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let mut wanted = bytes as u64;
    loop {
        let asked = ask(&shared.arena);
        if asked.is_ok() || wanted == u64::MAX {
            return asked;
        }
        let freed = shared.reclaim(wanted);
        wanted = if freed < wanted { u64::MAX } else { wanted.saturating_mul(2) };
    }
}

impl Connection {
    /// Gives up idle blocks of this many bytes to a request of another connection that holds the tree's
    /// lock, or none: too little lies idle in one magazine, or another thread is at work on the
    /// connection. The request may hold its own mutex, so this one is tried and not waited for. Returns
    /// what the request is to take off the scopes.
    fn yield_idle(&self, bytes: u64, spare: &Spare<'_>) -> Option<(Parents, u64)> {
        self.first_magazines().find_map(|home| {
            let (magazine, each) = (self.magazine(home), self.block_bytes(home));
            let count = bytes.div_ceil(each);
            if u64::from(magazine.word().idle().len()) < count {
                return None;
            }
            let mut state = self.state.try_lock()?;
            let State { ledger, .. } = &mut *state;
            let blocks = magazine.take_idle_blocks(count as u32);
            let taken = blocks.map(|block| spare.put(home.kind(), block)).count() as u64 * each;
            ledger.memory -= taken;
            (taken > 0).then_some((ledger.parents, taken))
        })
    }

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
