//! What one scope may use at most.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::priority::Priority;
use crate::usage::Usage;

/// The limits of one scope, resource by resource.
///
/// ```
/// use leasehold::{Limit, ScopeLimits};
///
/// let limits = ScopeLimits::unlimited().memory(64 << 20).connections(500);
/// assert_eq!(limits.memory, Limit::Max(64 << 20));
/// assert_eq!(limits.streams, Limit::Unlimited);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeLimits {
    /// Bytes of leased, cached and reserved memory.
    pub memory: Limit,
    /// Connections, whoever opened them.
    pub connections: Limit,
    /// Connections that the remote side opened.
    pub connections_inbound: Limit,
    /// Connections that this side opened.
    pub connections_outbound: Limit,
    /// Streams, whoever opened them.
    pub streams: Limit,
    /// Streams that the remote side opened.
    pub streams_inbound: Limit,
    /// Streams that this side opened.
    pub streams_outbound: Limit,
    /// File descriptors.
    pub fds: Limit,
}

/// Writes one builder method per resource.
macro_rules! setters {
    ($($resource:ident),+ $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($resource), "`](field@ScopeLimits::", stringify!($resource), ").")]
        #[must_use]
        pub fn $resource(mut self, limit: impl Into<Limit>) -> Self {
            self.$resource = limit.into();
            self
        }
    )+};
}

impl ScopeLimits {
    /// What [`unlimited`](Self::unlimited) answers.
    pub(crate) const UNLIMITED: Self = Self::all(Limit::Unlimited);

    /// No limit on anything.
    pub fn unlimited() -> Self {
        Self::UNLIMITED
    }

    /// Nothing of anything.
    pub fn blocked() -> Self {
        Self::all(Limit::Blocked)
    }

    const fn all(limit: Limit) -> Self {
        Self {
            memory: limit,
            connections: limit,
            connections_inbound: limit,
            connections_outbound: limit,
            streams: limit,
            streams_inbound: limit,
            streams_outbound: limit,
            fds: limit,
        }
    }

    setters! {
        memory,
        connections,
        connections_inbound,
        connections_outbound,
        streams,
        streams_inbound,
        streams_outbound,
        fds,
    }

    /// Whether [`check_memory`](Self::check_memory) has no objection, without the numbers.
    #[inline(always)]
    pub(crate) fn fit_memory(&self, in_use: u64, requested: u64, priority: Priority) -> bool {
        requested == 0
            || in_use
                .checked_add(requested)
                .is_some_and(|total| total <= priority.share_of(self.memory.max()))
    }

    /// Whether [`check_counts`](Self::check_counts) has no objection, without the numbers.
    #[inline(always)]
    pub(crate) fn fit_counts(&self, usage: &Usage, more: &Usage) -> bool {
        /// Counts are kept in 32 bits.
        #[inline(always)]
        fn fits(limit: Limit, in_use: u64, more: u64) -> bool {
            more == 0 || in_use + more <= limit.max().min(u32::MAX.into())
        }
        let connections = |limits: &Self| {
            fits(limits.connections, usage.connections(), more.connections())
                && fits(
                    limits.connections_inbound,
                    usage.connections_inbound.into(),
                    more.connections_inbound.into(),
                )
                && fits(
                    limits.connections_outbound,
                    usage.connections_outbound.into(),
                    more.connections_outbound.into(),
                )
                && fits(limits.fds, usage.fds.into(), more.fds.into())
        };
        let streams = |limits: &Self| {
            fits(limits.streams, usage.streams(), more.streams())
                && fits(
                    limits.streams_inbound,
                    usage.streams_inbound.into(),
                    more.streams_inbound.into(),
                )
                && fits(
                    limits.streams_outbound,
                    usage.streams_outbound.into(),
                    more.streams_outbound.into(),
                )
        };
        (more.connections() == 0 && more.fds == 0 || connections(self))
            && (more.streams() == 0 || streams(self))
    }

    /// Whether `requested` more bytes fit on top of `in_use` at a priority.
    #[inline]
    pub(crate) fn check_memory(
        &self,
        scope: Scope,
        in_use: u64,
        requested: u64,
        priority: Priority,
    ) -> Result<(), Refused> {
        let limit = match self.memory {
            Limit::Max(max) => Limit::Max(priority.share_of(max)),
            other => other,
        };
        if limit.admits(in_use, requested) {
            return Ok(());
        }
        let refused = Refused::new(scope, Resource::Memory, self.memory, in_use, requested);
        Err(refused.at(priority))
    }

    /// Whether the counts of `more` fit on top of `usage`; if not, the first that does not.
    #[inline]
    pub(crate) fn check_counts(
        &self,
        scope: Scope,
        usage: &Usage,
        more: &Usage,
    ) -> Result<(), Refused> {
        if *more == Usage::of_memory(more.memory) {
            return Ok(());
        }
        let rows = [
            (Resource::Connections, self.connections, usage.connections(), more.connections()),
            (
                Resource::ConnectionsInbound,
                self.connections_inbound,
                usage.connections_inbound.into(),
                more.connections_inbound.into(),
            ),
            (
                Resource::ConnectionsOutbound,
                self.connections_outbound,
                usage.connections_outbound.into(),
                more.connections_outbound.into(),
            ),
            (Resource::Streams, self.streams, usage.streams(), more.streams()),
            (
                Resource::StreamsInbound,
                self.streams_inbound,
                usage.streams_inbound.into(),
                more.streams_inbound.into(),
            ),
            (
                Resource::StreamsOutbound,
                self.streams_outbound,
                usage.streams_outbound.into(),
                more.streams_outbound.into(),
            ),
            (Resource::Fds, self.fds, usage.fds.into(), more.fds.into()),
        ];
        for (resource, limit, in_use, requested) in rows {
            // Counts are kept in 32 bits, so they end there even where they are unlimited.
            let counted = in_use + requested <= u32::MAX.into();
            if !limit.admits(in_use, requested) || !counted {
                return Err(Refused::new(scope, resource, limit, in_use, requested));
            }
        }
        Ok(())
    }
}
