//! What each scope may use at most.

use crate::error::{NameTooLong, Refused, Resource, Scope};
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

/// The limits of every scope of a governor.
///
/// ```
/// use leasehold::{Governor, Limits, ScopeLimits};
///
/// let limits = Limits::unlimited()
///     .system(ScopeLimits::unlimited().memory(64 << 20).connections(500))
///     .peer(ScopeLimits::unlimited().memory(1 << 20).connections(8))
///     .connection(ScopeLimits::unlimited().memory(256 << 10))
///     .class("public", ScopeLimits::unlimited().connections(400));
/// let governor = Governor::new(limits)?;
/// # Ok::<(), leasehold::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub(crate) system: ScopeLimits,
    pub(crate) transient: ScopeLimits,
    pub(crate) peer: ScopeLimits,
    pub(crate) connection: ScopeLimits,
    pub(crate) stream: ScopeLimits,
    pub(crate) class_default: ScopeLimits,
    /// Few, and looked up by the connections that name a class: a list is enough.
    pub(crate) classes: Vec<(Box<str>, ScopeLimits)>,
}

impl Limits {
    /// No limit anywhere, so that a library can always wrap its connections.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// Limits of everything together.
    #[must_use]
    pub fn system(mut self, limits: ScopeLimits) -> Self {
        self.system = limits;
        self
    }

    /// Limits of all connections whose peer is not known yet, together.
    #[must_use]
    pub fn transient(mut self, limits: ScopeLimits) -> Self {
        self.transient = limits;
        self
    }

    /// Limits of each peer.
    #[must_use]
    pub fn peer(mut self, limits: ScopeLimits) -> Self {
        self.peer = limits;
        self
    }

    /// Limits of each connection.
    #[must_use]
    pub fn connection(mut self, limits: ScopeLimits) -> Self {
        self.connection = limits;
        self
    }

    /// Limits of each stream: memory, and whether it may be opened at all.
    #[must_use]
    pub fn stream(mut self, limits: ScopeLimits) -> Self {
        self.stream = limits;
        self
    }

    /// Limits of each class that has none of its own.
    #[must_use]
    pub fn class_default(mut self, limits: ScopeLimits) -> Self {
        self.class_default = limits;
        self
    }

    /// Limits of the class called `name`, in the place of any given for it before.
    #[must_use]
    pub fn class(mut self, name: &str, limits: ScopeLimits) -> Self {
        match self.classes.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, known)) => *known = limits,
            None => self.classes.push((name.into(), limits)),
        }
        self
    }

    pub(crate) fn check_names(&self) -> Result<(), NameTooLong> {
        let mut lens = self.classes.iter().map(|(name, _)| name.len());
        match lens.find(|len| *len > crate::MAX_NAME_BYTES) {
            Some(len) => Err(NameTooLong { len }),
            None => Ok(()),
        }
    }

    /// The limits in force for the class called `name`.
    pub(crate) fn of_class(&self, name: &[u8]) -> &ScopeLimits {
        self.classes
            .iter()
            .find(|(known, _)| known.as_bytes() == name)
            .map_or(&self.class_default, |(_, limits)| limits)
    }
}
