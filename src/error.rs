//! What can go wrong, one type per kind of operation.
//!
//! Every error is at most 64 bytes, allocates nothing, and carries the numbers a person needs.
//! Each converts into [`std::io::Error`], so that `?` works in transport code.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::limit::Limit;
use crate::priority::Priority;

/// A level of the scope tree that can refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// Everything the governor governs.
    System,
    /// All connections whose peer is not known yet.
    Transient,
    /// Everything that only the allow list admitted.
    AllowlistedSystem,
    /// Of that, all connections whose peer is not known yet.
    AllowlistedTransient,
    /// Inbound connections from one prefix of addresses.
    Subnet,
    /// All connections of one peer.
    Peer,
    /// All connections and streams of one class: a listener, a protocol, a service.
    Class,
    /// One peer's part of one class.
    ClassPeer,
    /// One connection.
    Connection,
    /// One stream.
    Stream,
    /// The arena, which bounds the memory it maps.
    Arena,
}

impl Scope {
    pub(crate) const ALL: [Self; 11] = [
        Self::System,
        Self::Transient,
        Self::AllowlistedSystem,
        Self::AllowlistedTransient,
        Self::Subnet,
        Self::Peer,
        Self::Class,
        Self::ClassPeer,
        Self::Connection,
        Self::Stream,
        Self::Arena,
    ];
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

/// Something a scope has a limit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of leased, cached and reserved memory.
    Memory,
    /// Connections, whoever opened them.
    Connections,
    /// Connections that the remote side opened.
    ConnectionsInbound,
    /// Connections that this side opened.
    ConnectionsOutbound,
    /// Streams, whoever opened them.
    Streams,
    /// Streams that the remote side opened.
    StreamsInbound,
    /// Streams that this side opened.
    StreamsOutbound,
    /// File descriptors.
    Fds,
}

impl Resource {
    pub(crate) const ALL: [Self; 8] = [
        Self::Memory,
        Self::Connections,
        Self::ConnectionsInbound,
        Self::ConnectionsOutbound,
        Self::Streams,
        Self::StreamsInbound,
        Self::StreamsOutbound,
        Self::Fds,
    ];
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

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// Granting it would have exceeded the limit.
    Limit,
    /// The limit is [`Limit::Blocked`]: nothing of the kind is ever granted.
    Blocked,
    /// Too many came in too short a time.
    Rate,
    /// It would have fitted, but others were already waiting.
    Queued,
    /// The operating system had no memory to map.
    OutOfMemory,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] =
        [Self::Limit, Self::Blocked, Self::Rate, Self::Queued, Self::OutOfMemory];
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
    /// Whether the allow list has other scopes for who was refused.
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
            Limit::Blocked => Reason::Blocked,
            _ => Reason::Limit,
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
        let refused =
            Self::new(Scope::Arena, Resource::Memory, Limit::Unlimited, mapped, requested);
        Self { reason: Reason::OutOfMemory, ..refused }
    }

    /// The same, of a request that had this priority.
    pub(crate) fn at(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same, of one whom the allow list covers: when its scopes have room, it fits after all.
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
            Reason::Queued => write!(
                f,
                "others already wait for {unit} in the {scope} scope: \
                 {in_use} of {limit} in use, {requested} requested"
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
        match self.0 {
            Resource::Memory => f.write_str("bytes of memory"),
            counted => counted.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused.reason {
            Reason::OutOfMemory => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::QuotaExceeded,
        };
        io::Error::new(kind, refused)
    }
}

/// The connection is closed, by its guard or from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed")
    }
}

impl std::error::Error for Closed {}

impl From<Closed> for io::Error {
    fn from(closed: Closed) -> Self {
        io::Error::new(io::ErrorKind::ConnectionAborted, closed)
    }
}

/// The lease's memory was taken back when its connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked;

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lease was revoked: its connection is closed")
    }
}

impl std::error::Error for Revoked {}

impl From<Revoked> for io::Error {
    fn from(revoked: Revoked) -> Self {
        io::Error::new(io::ErrorKind::ConnectionAborted, revoked)
    }
}

/// Why a lease, a reservation or a stream was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseError {
    /// A limit is reached; the same request may be granted later.
    Refused(Refused),
    /// The request exceeds a limit all by itself; waiting is no use.
    NeverFits(Refused),
    /// The connection is closed.
    Closed,
}

impl LeaseError {
    /// The refusal and its numbers, unless the connection was closed.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            LeaseError::Refused(refused) | LeaseError::NeverFits(refused) => Some(refused),
            LeaseError::Closed => None,
        }
    }
}

impl From<Refused> for LeaseError {
    fn from(refused: Refused) -> Self {
        if refused.never_fits() {
            LeaseError::NeverFits(refused)
        } else {
            LeaseError::Refused(refused)
        }
    }
}

impl From<Closed> for LeaseError {
    fn from(Closed: Closed) -> Self {
        LeaseError::Closed
    }
}

impl fmt::Display for LeaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeaseError::Refused(refused) => refused.fmt(f),
            LeaseError::NeverFits(refused) => write!(f, "{refused}, which can never fit"),
            LeaseError::Closed => Closed.fmt(f),
        }
    }
}

impl std::error::Error for LeaseError {}

impl From<LeaseError> for io::Error {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Closed => Closed.into(),
            LeaseError::Refused(refused) | LeaseError::NeverFits(refused) => {
                io::Error::new(io::Error::from(refused).kind(), error)
            }
        }
    }
}

/// A peer key, class name or opaque source of more than [`crate::MAX_NAME_BYTES`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameTooLong {
    pub(crate) len: usize,
}

impl NameTooLong {
    /// How many bytes it had.
    #[allow(clippy::len_without_is_empty, reason = "the length of what was refused, never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl fmt::Display for NameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = crate::MAX_NAME_BYTES;
        write!(f, "a name of {} bytes is longer than the {max} allowed", self.len)
    }
}

impl std::error::Error for NameTooLong {}

impl From<NameTooLong> for io::Error {
    fn from(error: NameTooLong) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdmitError {
    /// A limit is reached.
    Refused(Refused),
    /// The peer key, class name or opaque source is too long.
    NameTooLong(NameTooLong),
}

impl AdmitError {
    /// The refusal and its numbers, if a limit was the cause.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            AdmitError::Refused(refused) => Some(refused),
            AdmitError::NameTooLong(_) => None,
        }
    }
}

impl From<Refused> for AdmitError {
    fn from(refused: Refused) -> Self {
        AdmitError::Refused(refused)
    }
}

impl From<NameTooLong> for AdmitError {
    fn from(error: NameTooLong) -> Self {
        AdmitError::NameTooLong(error)
    }
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdmitError::Refused(refused) => refused.fmt(f),
            AdmitError::NameTooLong(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AdmitError {}

impl From<AdmitError> for io::Error {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Refused(refused) => refused.into(),
            AdmitError::NameTooLong(error) => error.into(),
        }
    }
}

/// Why a connection was not bound to a peer or another source, or a stream to a class. Nothing has
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// There is no room for it and what it holds.
    Refused(Refused),
    /// The connection already has a peer, or the stream a class.
    AlreadyBound,
    /// The connection is closed.
    Closed,
    /// The peer key or the class's name is too long.
    NameTooLong(NameTooLong),
}

impl BindError {
    /// The refusal and its numbers, if a limit was the cause.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            BindError::Refused(refused) => Some(refused),
            _ => None,
        }
    }
}

impl From<Refused> for BindError {
    fn from(refused: Refused) -> Self {
        BindError::Refused(refused)
    }
}

impl From<NameTooLong> for BindError {
    fn from(error: NameTooLong) -> Self {
        BindError::NameTooLong(error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Refused(refused) => refused.fmt(f),
            BindError::AlreadyBound => f.write_str("it is bound already, which can be done once"),
            BindError::Closed => Closed.fmt(f),
            BindError::NameTooLong(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Refused(refused) => refused.into(),
            BindError::AlreadyBound => io::Error::new(io::ErrorKind::AlreadyExists, error),
            BindError::Closed => Closed.into(),
            BindError::NameTooLong(error) => error.into(),
        }
    }
}

/// A governor that cannot be built as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size class is not a power of two from [`crate::MIN_CLASS_BYTES`] to
    /// [`crate::MAX_CLASS_BYTES`].
    ClassSize {
        /// The size given, in bytes.
        bytes: usize,
    },
    /// There are no size classes, or more than [`crate::MAX_CLASSES`].
    ClassCount {
        /// How many were given.
        count: usize,
    },
    /// Size classes are not in strictly ascending order.
    ClassOrder {
        /// The size that is not larger than the one before it, in bytes.
        bytes: usize,
    },
    /// The name of a class is too long.
    NameTooLong(NameTooLong),
    /// More classes, and peers' parts of classes, have limits of their own than
    /// [`crate::Limits::MAX_CLASS_NAMES`].
    ClassNames {
        /// How many do.
        count: usize,
    },
    /// A prefix of an address is longer than the address.
    PrefixLength {
        /// The length given, in bits.
        length: u8,
        /// The length of such an address.
        most: u8,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::{MAX_CLASS_BYTES, MAX_CLASSES, MIN_CLASS_BYTES};
        match self {
            ConfigError::ClassSize { bytes } => write!(
                f,
                "a size class of {bytes} bytes is not a power of two \
                 from {MIN_CLASS_BYTES} to {MAX_CLASS_BYTES}"
            ),
            ConfigError::ClassCount { count } => {
                write!(f, "{count} size classes were given; 1 to {MAX_CLASSES} are possible")
            }
            ConfigError::ClassOrder { bytes } => {
                write!(f, "size classes must ascend, but {bytes} bytes follows a size not below it")
            }
            ConfigError::NameTooLong(error) => error.fmt(f),
            ConfigError::ClassNames { count } => {
                let most = crate::Limits::MAX_CLASS_NAMES;
                write!(f, "{count} classes have limits of their own; {most} are possible")
            }
            ConfigError::PrefixLength { length, most } => {
                write!(f, "a prefix length of {length} is more than the {most} bits of the address")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

const _: () = {
    assert!(size_of::<Refused>() <= 64);
    assert!(size_of::<LeaseError>() <= 64);
    assert!(size_of::<AdmitError>() <= 64);
    assert!(size_of::<BindError>() <= 64);
    assert!(size_of::<ConfigError>() <= 64);
};
