//! What all connections of a governor share.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::Connection;
use crate::arena::{Arena, Bounds};
use crate::clock::Clock;
use crate::limits::Limits;
use crate::registry::Registry;
use crate::report::Totals;
use crate::scope::Tree;
use crate::sync::unmodelled::{AtomicU32, AtomicU64, Relaxed};
use crate::sync::{Arc, Mutex};

/// What all connections of a governor share.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    pub(crate) tree: Tree<Arc<Connection>>,
    pub(crate) registry: Registry<Connection>,
    /// What connections that ended, or whose counters were full, have counted.
    pub(crate) tallies: CachePadded<Mutex<Tallies>>,
    hot: CachePadded<Hot>,
    clock: Box<dyn Clock>,
    epoch: Duration,
    fragmentation_bytes: Option<u64>,
    /// How many governors there are. All of them may be gone before the last connection is.
    governors: AtomicU32,
    /// The highest totals a report has shown.
    shown: CachePadded<Mutex<Tallies>>,
}

/// What fast paths read and next to nobody writes, on a line of its own.
struct Hot {
    /// The coarse clock: steps of [`TICK_MS`] since the governor was made.
    tick: AtomicU32,
    /// The memory limit of a stream; `u64::MAX` is unlimited.
    stream_memory: AtomicU64,
}

/// The step of the coarse clock, in milliseconds.
pub(crate) const TICK_MS: u64 = 100;

impl Shared {
    pub(crate) fn new(
        arena: Arena,
        limits: Limits,
        clock: Box<dyn Clock>,
        fragmentation_bytes: Option<u64>,
    ) -> Self {
        Self {
            arena,
            hot: CachePadded::new(Hot {
                tick: AtomicU32::new(0),
                stream_memory: AtomicU64::new(limits.stream.memory.max()),
            }),
            tree: Tree::new(limits),
            registry: Registry::new(),
            tallies: CachePadded::default(),
            epoch: clock.now(),
            clock,
            fragmentation_bytes,
            governors: AtomicU32::new(1),
            shown: CachePadded::default(),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        let classes = self.arena.class_count();
        let stream_memory = limits.stream.memory.max();
        self.tree.set_limits(limits, |limits, allowlisted_in_use| {
            let memory = limits.mapped_memory(allowlisted_in_use);
            self.arena.set_bounds(Bounds::new(memory, classes, self.fragmentation_bytes));
            self.hot.stream_memory.store(stream_memory, Relaxed);
        });
    }

    pub(crate) fn governor_cloned(&self) {
        self.governors.fetch_add(1, Relaxed);
    }

    pub(crate) fn governor_dropped(&self) {
        if self.governors.fetch_sub(1, Relaxed) == 1 {
            self.release_if_deserted();
        }
    }

    /// Unmaps the slabs that are kept for next time, once there will be none: no governor is left
    /// to admit anyone, and no connection has anything.
    pub(crate) fn release_if_deserted(&self) {
        if self.governors.load(Relaxed) == 0 && self.registry.is_empty() {
            self.arena.release_empty();
        }
    }

    /// The memory limit of a stream in force; `u64::MAX` is unlimited.
    #[inline]
    pub(super) fn stream_memory(&self) -> u64 {
        self.hot.stream_memory.load(Relaxed)
    }

    /// The coarse clock: steps of [`TICK_MS`] since the governor was made.
    #[inline]
    pub(crate) fn tick(&self) -> u32 {
        self.hot.tick.load(Relaxed)
    }

    /// Advances the coarse clock, and answers how long ago the governor was made.
    pub(crate) fn read_clock(&self) -> Duration {
        let elapsed = self.clock.now().saturating_sub(self.epoch);
        let tick = (elapsed.as_millis() as u64 / TICK_MS) as u32;
        // Every lease reads this line, so it is written only when there is something new.
        if self.hot.tick.load(Relaxed) != tick {
            self.hot.tick.store(tick, Relaxed);
        }
        elapsed
    }

    /// Keeps the counters of `totals` from falling below what was shown before.
    pub(crate) fn raise_floor(&self, totals: &mut Totals) {
        let mut shown = self.shown.lock();
        shown.leased_bytes = shown.leased_bytes.max(totals.leased_bytes);
        shown.returned_bytes = shown.returned_bytes.max(totals.returned_bytes);
        totals.leased_bytes = shown.leased_bytes;
        totals.returned_bytes = shown.returned_bytes;
    }
}

/// Counters that only rise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) leased_bytes: u64,
    pub(crate) returned_bytes: u64,
}
