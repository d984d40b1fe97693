//! What one scope may use at most.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
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
    /// No limit on anything.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// Nothing of anything.
    pub fn blocked() -> Self {
        Self {
            memory: Limit::Blocked,
            connections: Limit::Blocked,
            connections_inbound: Limit::Blocked,
            connections_outbound: Limit::Blocked,
            streams: Limit::Blocked,
            streams_inbound: Limit::Blocked,
            streams_outbound: Limit::Blocked,
            fds: Limit::Blocked,
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

    /// Whether `more` fits on top of `usage`; if not, the first resource that does not.
    #[inline]
    pub(crate) fn check(&self, scope: Scope, usage: &Usage, more: &Usage) -> Result<(), Refused> {
        if !self.memory.admits(usage.memory, more.memory) {
            let (limit, in_use) = (self.memory, usage.memory);
            return Err(Refused::new(scope, Resource::Memory, limit, in_use, more.memory));
        }
        if *more == Usage::of_memory(more.memory) {
            Ok(())
        } else {
            self.check_counts(scope, usage, more)
        }
    }

    fn check_counts(&self, scope: Scope, usage: &Usage, more: &Usage) -> Result<(), Refused> {
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
