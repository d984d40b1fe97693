//! A refusal: which scope, of what, why, and the numbers a person needs.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::limit::Limit;
use crate::priority::Priority;
use crate::try_box::OutOfMemory;

/// Declares an enum with a label for each variant, as limits files, reports and metrics have it; and an
/// `ALL` and `LABELS` that hold every variant in the order of their declaration.
macro_rules! listed {
    ($(#[$about:meta])* pub enum $name:ident {
        $($(#[$says:meta])* $variant:ident = $label:literal,)+
    }) => {
        $(#[$about])*
        #[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
        pub enum $name {
            $($(#[$says])* $variant,)+
        }

        impl $name {
            pub(crate) const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];
            pub(crate) const LABELS: [&str; Self::ALL.len()] = [$($label),+];

            pub(crate) fn label(self) -> &'static str {
                Self::LABELS[self as usize]
            }
        }
    };
}

listed! {
    /// A level of the scope tree that can refuse a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum Scope {
        /// Everything together, but for what only the allow list admitted.
        System = "system",
        /// All connections whose peer is not known yet.
        Transient = "transient",
        /// Everything that only the allow list admitted.
        AllowlistedSystem = "allowlisted_system",
        /// Of that, all connections whose peer is not known yet.
        AllowlistedTransient = "allowlisted_transient",
        /// Inbound connections from one prefix of addresses.
        Subnet = "subnet",
        /// All connections of one peer.
        Peer = "peer",
        /// All connections and streams of one class: a listener, a protocol, a service.
        Class = "class",
        /// One peer's part of one class.
        ClassPeer = "class_peer",
        /// One connection.
        Connection = "connection",
        /// One stream.
        Stream = "stream",
        /// The arena, which bounds what is resident and asks the operating system for it.
        Arena = "arena",
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::System => "system",
            Scope::Transient => "transient",
            Scope::AllowlistedSystem => "allow-listed system",
            Scope::AllowlistedTransient => "allow-listed transient",
            Scope::Subnet => "subnet",
            Scope::Peer => "peer",
            Scope::Class => "class",
            Scope::ClassPeer => "class-per-peer",
            Scope::Connection => "connection",
            Scope::Stream => "stream",
            Scope::Arena => "arena",
        })
    }
}

listed! {
    /// Something a scope has a limit for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum Resource {
        /// Bytes of leased, cached and reserved memory.
        Memory = "memory",
        /// Connections, whichever side opened them.
        Connections = "connections",
        /// Connections that the remote side opened.
        ConnectionsInbound = "connections_inbound",
        /// Connections that this side opened.
        ConnectionsOutbound = "connections_outbound",
        /// Streams, whichever side opened them.
        Streams = "streams",
        /// Streams that the remote side opened.
        StreamsInbound = "streams_inbound",
        /// Streams that this side opened.
        StreamsOutbound = "streams_outbound",
        /// File descriptors.
        Fds = "fds",
    }
}

impl Resource {
    /// Whether it is measured in bytes. The other resources are counted.
    ///
    /// ```
    /// use leasehold::Resource;
    ///
    /// assert!(Resource::Memory.is_bytes());
    /// assert!(!Resource::Streams.is_bytes());
    /// ```
    pub const fn is_bytes(self) -> bool {
        matches!(self, Resource::Memory)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Memory => "memory",
            Resource::Connections => "connections",
            Resource::ConnectionsInbound => "inbound connections",
            Resource::ConnectionsOutbound => "outbound connections",
            Resource::Streams => "streams",
            Resource::StreamsInbound => "inbound streams",
            Resource::StreamsOutbound => "outbound streams",
            Resource::Fds => "file descriptors",
        })
    }
}

listed! {
    /// Why a request was refused.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum Reason {
        /// Granting it would have exceeded the limit.
        Limit = "limit",
        /// The limit is [`Limit::Blocked`]: nothing of the kind is ever granted.
        Blocked = "blocked",
        /// Too many came in too short a time.
        Rate = "rate",
        /// The operating system had no memory to map, or there was none for book-keeping; or no
        /// limit is in the way, and yet what is in use and what was requested are together more than
        /// can be counted.
        OutOfMemory = "out_of_memory",
    }
}

/// A request that was refused, with the numbers at the instant of the refusal.
///
/// Nothing stays charged anywhere in the tree for a refused request.
///
/// ```
/// use leasehold::{Governor, Limits, Resource, Scope, ScopeLimits};
///
/// let limits = Limits::unlimited().system(ScopeLimits::unlimited().connections(1));
/// let governor = Governor::new(limits)?;
/// let _only = governor.inbound().try_admit()?;
/// let error = governor.inbound().try_admit().unwrap_err();
/// let refused = error.refused().unwrap();
/// assert_eq!((refused.scope(), refused.resource()), (Scope::System, Resource::Connections));
/// assert_eq!(
///     error.to_string(),
///     "system limit of 1 connections reached: 1 in use, 1 requested",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    limit: Limit,
    in_use: u64,
    requested: u64,
    /// Zero if the time is not known.
    retry_after_ns: u64,
    scope: Scope,
    resource: Resource,
    reason: Reason,
    priority: Priority,
    /// What refused, where the scope is [`Scope::Subnet`].
    prefix_len: Option<u8>,
    /// Whether the allow list has other scopes for the connection that was refused.
    has_fallback: bool,
}

impl Refused {
    pub(crate) fn new(
        scope: Scope,
        resource: Resource,
        limit: Limit,
        in_use: u64,
        requested: u64,
    ) -> Self {
        let reason = match limit {
            Limit::Max(_) => Reason::Limit,
            Limit::Blocked => Reason::Blocked,
            // What nothing limits has to be counted all the same.
            Limit::Unlimited => Reason::OutOfMemory,
        };
        Self {
            limit,
            in_use,
            requested,
            retry_after_ns: 0,
            scope,
            resource,
            reason,
            priority: Priority::Critical,
            prefix_len: None,
            has_fallback: false,
        }
    }

    /// One connection too many from a prefix of this length.
    pub(crate) fn by_subnet(prefix_len: u8, limit: Limit, in_use: u64) -> Self {
        let refused = Self::new(Scope::Subnet, Resource::ConnectionsInbound, limit, in_use, 1);
        Self { prefix_len: Some(prefix_len), ..refused }
    }

    /// One connection too soon from a prefix of this length, which may burst by so many.
    pub(crate) fn by_rate(prefix_len: u8, burst: u32, retry_after: Duration) -> Self {
        let burst = u64::from(burst);
        Self {
            reason: Reason::Rate,
            retry_after_ns: u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX).max(1),
            ..Self::by_subnet(prefix_len, Limit::Max(burst), burst)
        }
    }

    /// The operating system would not map `requested` more bytes.
    pub(crate) fn out_of_memory(mapped: u64, requested: u64) -> Self {
        Self::new(Scope::Arena, Resource::Memory, Limit::Unlimited, mapped, requested)
    }

    /// More than can be counted.
    pub(crate) fn uncountable(scope: Scope, requested: u64) -> Self {
        let in_use = u64::MAX - requested;
        Self::new(scope, Resource::Memory, Limit::Unlimited, in_use, requested)
    }

    /// The same, of a request that had this priority.
    pub(crate) fn at(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same, of a connection that the allow list covers: when its scopes have room, it fits after all.
    pub(crate) fn with_fallback(self, has_fallback: bool) -> Self {
        Self { has_fallback, ..self }
    }

    /// The level of the tree that refused.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What there was not enough of.
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// The limit in force when the request was refused; the burst, where the reason is a rate.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// How much the scope was using, in bytes for memory, else a count.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// How much more was asked for, in bytes for memory, else a count.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Why it was refused.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The priority of the request, which decides how much of the limit it may fill.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Which prefix of the address refused, by its length in bits, where the scope is
    /// [`Scope::Subnet`].
    pub fn prefix_len(&self) -> Option<u8> {
        self.prefix_len
    }

    /// When to come back, where the reason is [`Reason::Rate`].
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after_ns > 0).then(|| Duration::from_nanos(self.retry_after_ns))
    }

    /// The kind of [`io::Error`] that the refusal is, by itself or inside another error.
    pub(super) fn io_kind(&self) -> io::ErrorKind {
        match self.reason {
            Reason::OutOfMemory => io::ErrorKind::OutOfMemory,
            Reason::Limit | Reason::Blocked | Reason::Rate => io::ErrorKind::QuotaExceeded,
        }
    }

    /// How many bytes have to come back before the request fits, if that would help.
    pub(crate) fn missing_bytes(&self) -> Option<u64> {
        self.missing_bytes_of(self.requested)
    }

    /// The same, if only this much had been requested.
    pub(crate) fn missing_bytes_of(&self, requested: u64) -> Option<u64> {
        let share = match self.limit {
            Limit::Unlimited => return None,
            // Room for no memory: a connection that moves may enter without its idle blocks.
            Limit::Blocked => 0,
            Limit::Max(max) => self.priority.share_of(max),
        };
        // Idle blocks are memory: that they come back makes no room for anything else.
        let may_fit = self.resource == Resource::Memory && requested <= share;
        may_fit.then(|| self.in_use.saturating_add(requested).saturating_sub(share))
    }

    /// Whether the request exceeds the limit even with nothing else in use.
    pub(crate) fn never_fits(&self) -> bool {
        match self.limit {
            _ if self.has_fallback => false,
            Limit::Unlimited => false,
            Limit::Blocked => true,
            Limit::Max(max) => self.requested > self.priority.share_of(max),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, in_use, requested, scope, resource, reason, priority, .. } = *self;
        let unit = Unit(resource);
        let scope = Place { scope, prefix_len: self.prefix_len };
        match reason {
            Reason::Limit if priority == Priority::Critical => write!(
                f,
                "{scope} limit of {limit} {unit} reached: {in_use} in use, {requested} requested"
            ),
            Reason::Limit => write!(
                f,
                "{percent} % of the {scope} limit of {limit} {unit} reached, all that {priority} \
                 priority may fill: {in_use} in use, {requested} requested",
                percent = priority.percent()
            ),
            Reason::Blocked => {
                write!(f, "{scope} limit blocks all {unit}: {requested} requested")
            }
            Reason::Rate => write!(
                f,
                "{scope} rate of new connections reached after a burst of {limit}: \
                 come back in {wait:.1?}",
                wait = Duration::from_nanos(self.retry_after_ns)
            ),
            Reason::OutOfMemory if requested == 0 => {
                f.write_str("there is no memory for the book-keeping of the request")
            }
            Reason::OutOfMemory if self.scope != Scope::Arena => write!(
                f,
                "more {unit} than can be counted: \
                 {in_use} in use by the {scope}, {requested} more requested"
            ),
            Reason::OutOfMemory => write!(
                f,
                "the operating system has no memory to map: \
                 {in_use} bytes mapped, {requested} more requested"
            ),
        }
    }
}

/// Where it was refused.
struct Place {
    scope: Scope,
    prefix_len: Option<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len {
            Some(len) => write!(f, "/{len} {}", self.scope),
            None => self.scope.fmt(f),
        }
    }
}

/// What a number of a resource counts.
pub(crate) struct Unit(pub(crate) Resource);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_bytes() { write!(f, "bytes of {}", self.0) } else { self.0.fmt(f) }
    }
}

impl std::error::Error for Refused {}

impl From<OutOfMemory> for Refused {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::out_of_memory(0, 0)
    }
}

const _: () = assert!(size_of::<Refused>() <= 64);
