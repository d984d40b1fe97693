//! What is asked for.

use super::{LevelRef, Realm};
use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::limits::ScopeLimits;
use crate::priority::Priority;
use crate::usage::{Ceilings, Tally};

/// A request to a scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// What is asked for.
    pub(crate) usage: Tally,
    /// How much of its memory is charged already, as an idle block of the one who asks.
    pub(crate) idle_bytes: u64,
    /// How much of a memory limit it may fill.
    pub(crate) priority: Priority,
}

/// The limits of a scope, ready to be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) limits: ScopeLimits,
    ceilings: Ceilings,
}

impl Bounds {
    const NONE: Self = Self { limits: ScopeLimits::UNLIMITED, ceilings: Ceilings::NONE };

    pub(super) fn new(limits: ScopeLimits) -> Self {
        Self { limits, ceilings: limits.ceilings() }
    }
}

impl Request {
    /// For this much more, of what is not charged yet and at the highest priority.
    pub(crate) fn new(usage: Tally) -> Self {
        Self { usage, idle_bytes: 0, priority: Priority::Critical }
    }

    pub(crate) fn at(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// What is charged if it is granted.
    #[inline]
    pub(super) fn charged(&self) -> Tally {
        self.usage.with_memory(self.usage.memory - self.idle_bytes)
    }

    /// Whether the request fits on top of `in_use`; if not, the first resource that does not.
    /// Without limits only what can be counted at all is in the way.
    #[inline(always)]
    pub(super) fn check(
        &self,
        scope: Scope,
        bounds: Option<&Bounds>,
        in_use: &Tally,
    ) -> Result<(), Refused> {
        let bounds = bounds.unwrap_or(&Bounds::NONE);
        if self.fits(bounds, in_use) {
            Ok(())
        } else {
            Err(self.refusal(scope, &bounds.limits, in_use))
        }
    }

    /// More than can be counted, together with what is in use already.
    #[cold]
    pub(super) fn refusal_of_all(&self, realm: Realm) -> Refused {
        let scope = LevelRef::System(realm).scope();
        let (in_use, requested) = (u64::MAX - self.usage.memory, self.usage.memory);
        Refused::new(scope, Resource::Memory, Limit::Unlimited, in_use, requested)
    }

    /// Whether [`check`](Self::check) has no objection, without the numbers.
    #[inline(always)]
    pub(super) fn fits(&self, bounds: &Bounds, in_use: &Tally) -> bool {
        let share = |limit| self.priority.share_of(limit);
        bounds.ceilings.fit(in_use, &self.usage, self.idle_bytes, share)
    }

    /// The first resource that does not fit.
    #[cold]
    #[inline(never)]
    fn refusal(&self, scope: Scope, limits: &ScopeLimits, in_use: &Tally) -> Refused {
        let memory = in_use.memory.saturating_sub(self.idle_bytes);
        let refused = limits
            .check_memory(scope, memory, self.usage.memory, self.priority)
            .and_then(|()| limits.check_counts(scope, in_use, &self.usage));
        refused.expect_err("what does not fit is refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Direction;

    /// The quick test and the one that has all the numbers agree, everywhere near a limit.
    #[test]
    fn what_fits_is_what_is_not_refused() {
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
                let mut tally = *Tally::of_connection(Direction::Inbound, count() == 3);
                for _ in 0..count() % 4 {
                    tally.add(Tally::of_connection(Direction::Outbound, true));
                }
                tally.add(&Tally::of_streams(count(), count()));
                tally.with_memory([count().into(), u64::MAX - 1][usize::from(count() == 3)])
            };
            let (in_use, mut more) = (tally(), tally());
            // Most requests are for one kind of thing.
            match random.u32(..4) {
                0 => more = Tally::of_memory(more.memory),
                1 => more = *Tally::of_connection(Direction::Inbound, true),
                2 => more = Tally::of_stream(Direction::Outbound),
                _ => {}
            }
            let priority = [Priority::Low, Priority::Critical][random.usize(..2)];
            let request = Request::new(more).at(priority);
            let slow = limits
                .check_memory(Scope::System, in_use.memory, more.memory, priority)
                .and_then(|()| limits.check_counts(Scope::System, &in_use, &more));
            assert_eq!(request.check(Scope::System, Some(&Bounds::new(limits)), &in_use), slow);
            refused += u32::from(slow.is_err());
        }
        assert!((50_000..180_000).contains(&refused), "{refused} of 200,000 refused");
    }
}
