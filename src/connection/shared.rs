//! What all connections of a governor share.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::Connection;
use super::marks::Walk;
use crate::arena::{Arena, Bounds, Lookup, SizeClasses};
use crate::clock::Clock;
use crate::counters::{BySize, Counters, Holdings};
use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::{Limits, ScopeLimits};
use crate::name::PeerKey;
use crate::registry::Registry;
use crate::report::Reclaimed;
use crate::scope::{Partition, ScopeRef, Tree};
use crate::sync::unmodelled::{AtomicU32, AtomicU64, Relaxed};
use crate::sync::{Arc, Mutex};

/// What all connections of a governor share. A connection keeps it until nothing of it is charged any
/// more: a handle that is kept longer does not.
pub(crate) struct Shared {
    /// What metrics and reports call the governor.
    pub(crate) name: String,
    pub(crate) arena: Arena,
    pub(crate) tree: Tree<Arc<Connection>>,
    pub(crate) registry: Registry<Connection>,
    pub(crate) hot: Arc<Hot>,
    /// What connections that ended, or whose counters were full, have counted.
    pub(crate) folded: CachePadded<Mutex<Counters>>,
    clock: Box<dyn Clock>,
    epoch: Duration,
    fragmentation_bytes: Option<u64>,
    /// The highest sums of leased and returned bytes that were shown.
    shown: CachePadded<Mutex<Counters>>,
    /// The latest walk over all connections.
    walk: Mutex<Walk>,
    #[cfg(feature = "tracing")]
    pub(crate) events: super::events::Events,
    #[cfg(feature = "testing")]
    pub(crate) faults: crate::testing::Faults,
}

/// What every lease reads and next to nothing writes. It is small, and outlives the governor with the
/// last handle.
#[repr(align(64))]
pub(crate) struct Hot {
    /// The coarse clock: steps of [`TICK_MS`] since the governor was made.
    tick: AtomicU32,
    /// The tick of the last maintenance, and one; zero before the first.
    maintained: AtomicU32,
    /// The memory limit of a stream; `u64::MAX` is unlimited.
    stream_memory: AtomicU64,
    pub(crate) sizes: SizeClasses,
    /// The way to a block that is out.
    pub(crate) lookup: Lookup,
    /// Of names that a remote peer can choose.
    pub(crate) hasher: KeyedHasher,
    /// Whether blocks are overwritten with zeroes as they come back.
    pub(crate) zero_on_return: bool,
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<Hot>() == 64);

/// The step of the coarse clock, in milliseconds.
const TICK_MS: u64 = 100;

/// How long a maintenance counts as the last one: ten seconds.
const MAINTAINED_TICKS: u32 = 100;

impl Hot {
    /// The coarse clock: steps of [`TICK_MS`] since the governor was made.
    #[inline]
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Relaxed)
    }

    /// The memory limit of a stream in force; `u64::MAX` is unlimited.
    #[inline]
    pub(super) fn stream_memory(&self) -> u64 {
        self.stream_memory.load(Relaxed)
    }

    /// How long ago a tick was. Not at all, if it came after the tick that this thread reads.
    pub(crate) fn age(&self, since_tick: u32) -> Duration {
        let ticks = self.tick().saturating_sub(since_tick);
        Duration::from_millis(u64::from(ticks) * TICK_MS)
    }

    /// Whether the governor is maintained these days, so that what connections keep idle is looked
    /// through now and then.
    pub(super) fn is_maintained(&self) -> bool {
        let maintained = self.maintained.load(Relaxed);
        maintained > 0 && self.tick().saturating_sub(maintained - 1) <= MAINTAINED_TICKS
    }
}

impl Shared {
    pub(crate) fn new(
        name: String,
        arena: Arena,
        limits: Limits,
        clock: Box<dyn Clock>,
        fragmentation_bytes: Option<u64>,
    ) -> Self {
        let hot = Hot {
            tick: AtomicU32::new(0),
            maintained: AtomicU32::new(0),
            stream_memory: AtomicU64::new(limits.stream.memory.max()),
            sizes: arena.sizes(),
            lookup: arena.lookup(),
            hasher: KeyedHasher::random(),
            zero_on_return: arena.zero_on_return(),
        };
        Self {
            name,
            arena,
            tree: Tree::new(limits, hot.hasher),
            registry: Registry::new(),
            hot: Arc::new(hot),
            folded: CachePadded::default(),
            epoch: clock.now(),
            clock,
            fragmentation_bytes,
            shown: CachePadded::default(),
            walk: Mutex::new(Walk::FIRST),
            #[cfg(feature = "tracing")]
            events: super::events::Events::default(),
            #[cfg(feature = "testing")]
            faults: crate::testing::Faults::default(),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        let classes = self.arena.sizes().count();
        let bars_memory = limits.bars_memory();
        self.tree.set_limits(limits, |limits, allowlisted_in_use| {
            let memory = limits.mapped_memory(allowlisted_in_use);
            self.arena.set_bounds(Bounds::new(memory, classes, self.fragmentation_bytes));
            self.hot.stream_memory.store(limits.stream.memory.max(), Relaxed);
        });
        if bars_memory {
            // What lies idle below a blocked scope is lent to no lease any more.
            self.reclaim(u64::MAX);
        }
    }

    /// Gives one peer limits of its own, or takes them from it.
    pub(crate) fn set_peer_limits(
        &self,
        key: &PeerKey,
        limits: Option<ScopeLimits>,
    ) -> Option<ScopeLimits> {
        let before = self.tree.set_peer_limits(key, limits);
        if let Some(at) = self.tree.barred_peer(key) {
            self.reclaim_at(at, u64::MAX);
        }
        before
    }

    /// Takes idle blocks of any connections until there are so many bytes, and returns how many.
    pub(super) fn reclaim(&self, bytes: u64) -> u64 {
        let ordinary = self.reclaim_at(ScopeRef::System(Partition::Ordinary), bytes);
        let rest = bytes - ordinary.min(bytes);
        ordinary + self.reclaim_at(ScopeRef::System(Partition::Allowlisted), rest)
    }

    fn reclaim_at(&self, at: ScopeRef, bytes: u64) -> u64 {
        if bytes == 0 || !self.tree.begin_reclaim(at) {
            return 0;
        }
        let freed = self.sweep(at, bytes, |_| true);
        self.tree.end_reclaim(at);
        self.arena.settle();
        freed
    }

    /// Sweeps connections below a scope that `pick` picks until there are so many bytes, and returns
    /// how many.
    pub(super) fn sweep(
        &self,
        at: ScopeRef,
        bytes: u64,
        pick: impl Fn(&Arc<Connection>) -> bool,
    ) -> u64 {
        let mut freed = 0;
        self.tree.for_each_member(at, |member| {
            if pick(member) {
                freed += member.sweep();
            }
            freed < bytes
        });
        freed
    }

    /// Looks through what connections keep idle, and what the limits by address remember.
    pub(crate) fn maintain(&self) {
        let now = self.read_clock();
        let tick = self.hot.tick();
        if self.hot.maintained.swap(tick + 1, Relaxed) != tick + 1 {
            for partition in [Partition::Ordinary, Partition::Allowlisted] {
                self.tree.for_each_member(ScopeRef::System(partition), |member| {
                    member.give_up_unused();
                    true
                });
            }
            self.arena.settle();
        }
        self.tree.maintain(now);
        #[cfg(feature = "tracing")]
        self.tell_old_orphans();
    }

    /// Counts a refusal that reaches the caller. Call with no lock held.
    pub(super) fn count_refusal(&self, refused: &Refused) {
        self.tree.lock().count_refusal(refused);
        #[cfg(feature = "tracing")]
        self.tell_refused(refused);
    }

    /// Advances the coarse clock, and returns how long ago the governor was made.
    pub(crate) fn read_clock(&self) -> Duration {
        let elapsed = self.clock.now().saturating_sub(self.epoch);
        let tick = (elapsed.as_millis() as u64 / TICK_MS) as u32;
        // Every lease reads this line, so it is written only when there is something new.
        if self.hot.tick() != tick {
            self.hot.tick.store(tick, Relaxed);
        }
        elapsed
    }

    /// Counts what a close took from leases that are still kept, or were forgotten.
    pub(super) fn count_reclaimed(&self, reclaimed: &Reclaimed) {
        if reclaimed.leased_bytes > 0 {
            let mut folded = self.folded.lock();
            folded.revoked_leases += reclaimed.revoked_leases;
            folded.leaked_bytes += reclaimed.forgotten_bytes;
        }
    }

    /// Adds up what all connections hold, one after another, and what was ever counted. Needs the same
    /// memory however many there are.
    pub(crate) fn add_up(&self) -> (Counters, Holdings) {
        let folded = *self.folded.lock();
        let mut holdings = Holdings::default();
        self.walk(|connection, walk| connection.add_to(&mut holdings, walk));
        (self.total(folded, &holdings), holdings)
    }

    /// Visits every connection. One that moves in the registry meanwhile may be visited twice, and
    /// sees that it is the same walk.
    pub(crate) fn walk(&self, mut visit: impl FnMut(&Connection, Walk)) {
        let mut walk = self.walk.lock();
        *walk = walk.next();
        self.registry.for_each(|connection| visit(connection, *walk));
    }

    /// All that was ever counted: `folded`, as it was before the connections were looked at, and what
    /// they had not folded yet. What was folded meanwhile is missed and never counted twice; the floor
    /// keeps that from showing as a counter that falls.
    pub(crate) fn total(&self, folded: Counters, holdings: &Holdings) -> Counters {
        let mut shown = self.shown.lock();
        let raise = |shown: &mut BySize, folded: BySize, since: BySize| {
            for ((shown, folded), since) in shown.iter_mut().zip(folded).zip(since) {
                *shown = folded.saturating_add(since).max(*shown);
            }
        };
        raise(&mut shown.leased_bytes, folded.leased_bytes, holdings.leased_bytes);
        raise(&mut shown.returned_bytes, folded.returned_bytes, holdings.returned_bytes);
        Counters {
            revoked_leases: folded.revoked_leases,
            leaked_bytes: folded.leaked_bytes,
            ..*shown
        }
    }
}
