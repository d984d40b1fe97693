//! What one scope may use at most.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::priority::Priority;
use crate::usage::{Ceilings, Lane, MOST_COUNT, Tally};

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

    /// The limit of one resource.
    pub fn of(&self, resource: Resource) -> Limit {
        match resource {
            Resource::Memory => self.memory,
            Resource::Connections => self.connections,
            Resource::ConnectionsInbound => self.connections_inbound,
            Resource::ConnectionsOutbound => self.connections_outbound,
            Resource::Streams => self.streams,
            Resource::StreamsInbound => self.streams_inbound,
            Resource::StreamsOutbound => self.streams_outbound,
            Resource::Fds => self.fds,
        }
    }

    /// The limits in the form in which they are compared.
    pub(crate) fn ceilings(&self) -> Ceilings {
        Ceilings::new(self.memory, |lane| match lane {
            Lane::Connections => self.connections,
            Lane::ConnectionsInbound => self.connections_inbound,
            Lane::ConnectionsOutbound => self.connections_outbound,
            Lane::Fds => self.fds,
            Lane::Streams => self.streams,
            Lane::StreamsInbound => self.streams_inbound,
            Lane::StreamsOutbound => self.streams_outbound,
        })
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

    /// Whether the counts of `more` fit on top of `in_use`; if not, the first that does not.
    pub(crate) fn check_counts(
        &self,
        scope: Scope,
        in_use: &Tally,
        more: &Tally,
    ) -> Result<(), Refused> {
        let rows = [
            (Resource::Connections, Lane::Connections),
            (Resource::ConnectionsInbound, Lane::ConnectionsInbound),
            (Resource::ConnectionsOutbound, Lane::ConnectionsOutbound),
            (Resource::Streams, Lane::Streams),
            (Resource::StreamsInbound, Lane::StreamsInbound),
            (Resource::StreamsOutbound, Lane::StreamsOutbound),
            (Resource::Fds, Lane::Fds),
        ];
        for (resource, lane) in rows {
            let limit = self.of(resource);
            let (in_use, requested) = (in_use.count(lane).into(), more.count(lane).into());
            // Counts end somewhere even where they are unlimited.
            let counted = in_use + requested <= MOST_COUNT.into();
            if requested > 0 && !(limit.admits(in_use, requested) && counted) {
                return Err(Refused::new(scope, resource, limit, in_use, requested));
            }
        }
        Ok(())
    }
}
