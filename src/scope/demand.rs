//! What is asked of a scope, compared with its limits.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::limits::ScopeLimits;
use crate::priority::Priority;
use crate::usage::{LANES, Lane, MOST_COUNT, Tally};

/// A request to a scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// What is asked for.
    pub(crate) usage: Tally,
    /// How much of its memory is charged already, in an idle block of the same connection.
    pub(crate) idle_bytes: u64,
    /// How much of a memory limit it may fill.
    pub(crate) priority: Priority,
}

impl Demand {
    /// For this much more, none of it charged yet, at the highest priority.
    #[inline]
    pub(crate) fn new(usage: Tally) -> Self {
        Self { usage, idle_bytes: 0, priority: Priority::Critical }
    }

    pub(crate) fn at(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// What a stream is asked for: idle blocks are charged to none.
    pub(super) fn of_stream(&self) -> Demand {
        Demand { idle_bytes: 0, ..*self }
    }

    /// What the class of a stream is asked for, which counts no block as one that can be idle.
    pub(super) fn of_stream_class(&self) -> Demand {
        Demand { usage: self.usage.with_memory(self.usage.memory), ..self.of_stream() }
    }

    /// What is charged if it is granted.
    #[inline]
    pub(super) fn charged(&self) -> Tally {
        let Tally { memory, cacheable, counts } = self.usage;
        let idle = self.idle_bytes;
        Tally { memory: memory - idle, cacheable: cacheable.saturating_sub(idle), counts }
    }

    /// The request made of a scope that the connection is about to enter: all it uses (`own`) plus
    /// this. `None` on overflow.
    pub(super) fn along_with(&self, own: &Tally) -> Option<Demand> {
        let usage = own.checked_add(&self.charged())?;
        Some(Demand { usage, idle_bytes: 0, ..*self })
    }
}

/// The limits of a scope, ready to be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    pub(super) limits: ScopeLimits,
    /// `limits` of what is counted, lane by lane.
    counts: [i32; LANES],
}

impl Ceilings {
    /// Only what can be counted at all is in the way.
    pub(super) const NONE: Self =
        Self { limits: ScopeLimits::UNLIMITED, counts: [i32::MAX; LANES] };

    pub(super) fn new(limits: ScopeLimits) -> Self {
        let mut counts = [i32::MAX; LANES];
        for (lane, resource) in Lane::ALL {
            counts[lane as usize] = limits.of(resource).max().min(MOST_COUNT.into()) as i32;
        }
        Self { limits, counts }
    }

    /// Whether no block may lie idle here.
    pub(super) fn bars_memory(&self) -> bool {
        self.limits.memory == Limit::Blocked
    }

    /// Whether `request` fits on top of `used`.
    #[inline(always)]
    pub(super) fn fit(&self, used: &Tally, request: &Demand) -> bool {
        // Most requests are for memory alone.
        let counts_fit = || {
            request.usage.counts == [0; LANES]
                || (0..LANES).fold(0, |all, lane| all | self.excess(lane, used, request)) == 0
        };
        self.memory_fits(used, request) && counts_fit()
    }

    #[inline(always)]
    fn memory_fits(&self, used: &Tally, request: &Demand) -> bool {
        let others = used.memory.saturating_sub(request.idle_bytes);
        request.usage.memory == 0
            || match (others.checked_add(request.usage.memory), self.limits.memory) {
                (Some(sum), Limit::Max(max)) => sum <= request.priority.share_of(max),
                (Some(_), Limit::Unlimited) => true,
                (Some(_), Limit::Blocked) | (None, _) => false,
            }
    }

    /// What is asked for in a lane, if there is no room for it, or else zero: in this form all lanes
    /// are compared at once.
    #[inline(always)]
    fn excess(&self, lane: usize, used: &Tally, request: &Demand) -> i32 {
        // Below zero where a limit was lowered below what is in use.
        let headroom = self.counts[lane] - used.counts[lane];
        let more = request.usage.counts[lane];
        if more > headroom { more } else { 0 }
    }

    /// As [`fit`](Self::fit); if not, an error that names the first resource that does not fit.
    #[cold]
    pub(super) fn check(
        &self,
        scope: Scope,
        used: &Tally,
        request: &Demand,
    ) -> Result<(), Refused> {
        if !self.memory_fits(used, request) {
            let others = used.memory.saturating_sub(request.idle_bytes);
            let (limit, requested) = (self.limits.memory, request.usage.memory);
            let refused = Refused::new(scope, Resource::Memory, limit, others, requested);
            return Err(refused.at(request.priority));
        }
        let mut lanes = Lane::ALL.into_iter();
        let first = lanes.find(|(lane, _)| self.excess(*lane as usize, used, request) > 0);
        let Some((lane, resource)) = first else { return Ok(()) };
        let (used, requested) = (used.count(lane).into(), request.usage.count(lane).into());
        Err(Refused::new(scope, resource, self.limits.of(resource), used, requested))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Direction;
    use crate::usage::ConnectionKind;

    /// The comparison in vectors agrees with plain sums in numbers that cannot overflow.
    #[test]
    fn what_fits_is_what_the_sums_say() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut refused = 0;
        for _ in 0..200_000 {
            let mut limit = || match random.u32(..8) {
                0 => Limit::Unlimited,
                1 => Limit::Blocked,
                2 => Limit::Max(u64::MAX),
                3 => Limit::Max(i32::MAX as u64),
                _ => Limit::Max(random.u64(..6)),
            };
            let limits = ScopeLimits::unlimited()
                .memory(limit())
                .connections(limit())
                .connections_inbound(limit())
                .connections_outbound(limit())
                .streams(limit())
                .streams_inbound(limit())
                .streams_outbound(limit())
                .fds(limit());
            let mut count = || match random.u32(..8) {
                0 => i32::MAX as u32 / 2,
                1 => i32::MAX as u32 / 2 - 1,
                _ => random.u32(..4),
            };
            let mut tally = || {
                let mut tally = *ConnectionKind::new(Direction::Inbound, count() == 3).tally();
                for _ in 0..count() % 4 {
                    tally.add(ConnectionKind::new(Direction::Outbound, true).tally());
                }
                tally.add(&Tally::of_streams(count(), count()));
                tally.with_memory([count().into(), u64::MAX - 1][usize::from(count() == 3)])
            };
            let (used, mut more) = (tally(), tally());
            // Most requests are for one kind of thing.
            match random.u32(..4) {
                0 => more = Tally::of_memory(more.memory),
                1 => more = *ConnectionKind::new(Direction::Inbound, true).tally(),
                2 => more = Tally::of_stream(Direction::Outbound),
                _ => {}
            }
            let priority = [Priority::Low, Priority::Critical][random.usize(..2)];
            let fits = |limit: Limit, used: u64, more: u64, most: u64| {
                let sum = u128::from(used) + u128::from(more);
                let max = match limit {
                    Limit::Unlimited => most.into(),
                    Limit::Blocked => return more == 0,
                    Limit::Max(max) => u128::from(max.min(most)),
                };
                more == 0 || sum <= max
            };
            let share = match limits.memory {
                Limit::Max(max) => Limit::Max(priority.share_of(max)),
                other => other,
            };
            let mut first = (!fits(share, used.memory, more.memory, u64::MAX)).then_some((
                Resource::Memory,
                used.memory,
                more.memory,
            ));
            for (lane, resource) in Lane::ALL {
                let (used, more) = (used.count(lane).into(), more.count(lane).into());
                if !fits(limits.of(resource), used, more, MOST_COUNT.into()) {
                    first = first.or(Some((resource, used, more)));
                }
            }
            let request = Demand::new(more).at(priority);
            let ceilings = Ceilings::new(limits);
            let checked = ceilings.check(Scope::System, &used, &request);
            assert_eq!(ceilings.fit(&used, &request), checked.is_ok());
            let refusal = checked.err().map(|r| (r.resource(), r.in_use(), r.requested()));
            assert_eq!(refusal, first);
            refused += u32::from(first.is_some());
        }
        assert!((50_000..180_000).contains(&refused), "{refused} of 200,000 refused");
    }
}
