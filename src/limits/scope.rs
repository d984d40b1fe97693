//! What one scope may use at most.

use crate::error::Resource;
use crate::limit::Limit;

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
    /// Connections, whichever side opened them.
    pub connections: Limit,
    /// Connections that the remote side opened.
    pub connections_inbound: Limit,
    /// Connections that this side opened.
    pub connections_outbound: Limit,
    /// Streams, whichever side opened them.
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
    /// What [`unlimited`](Self::unlimited) returns.
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
}
