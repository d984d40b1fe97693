//! What can go wrong, one type per kind of operation.
//!
//! Every error is at most 64 bytes, allocates nothing, and carries the numbers a person needs.
//! Each converts into a [`std::io::Error`] that wraps it, so that `?` works in transport code and
//! `downcast_ref` finds the error itself.

mod refused;

use std::convert::Infallible;
use std::fmt;
use std::io;

use crate::ranges::{
    MAX_BLOCK_BYTES, MAX_CLASS_NAMES, MAX_NAME_BYTES, MAX_RATE_INTERVAL, MAX_SIZE_CLASSES,
    MIN_BLOCK_BYTES,
};
pub(crate) use refused::Unit;
pub use refused::{Reason, Refused, Resource, Scope};

/// The connection is closed, by its guard or from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed")
    }
}

impl std::error::Error for Closed {}

impl From<Revoked> for Closed {
    fn from(Revoked: Revoked) -> Self {
        Closed
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

/// Why a lease, a reservation or a stream was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseError {
    /// A limit is reached, or the system has no memory; the same request may be granted later.
    Refused(Refused),
    /// The request exceeds a limit even with nothing else in use; waiting is no use.
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

impl From<Revoked> for LeaseError {
    fn from(Revoked: Revoked) -> Self {
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
        write!(f, "a name of {} bytes is longer than the {MAX_NAME_BYTES} allowed", self.len)
    }
}

impl std::error::Error for NameTooLong {}

/// For keys that are always short enough, such as an address.
impl From<Infallible> for NameTooLong {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdmitError {
    /// A limit is reached, or the system has no memory.
    Refused(Refused),
    /// The peer key, class name or opaque source is too long.
    NameTooLong(NameTooLong),
}

impl AdmitError {
    /// The refusal and its numbers, if it was refused.
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

/// Why a connection was not bound to a peer or another source, or a stream to a class. Nothing has
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// There is no room for it and what it holds.
    Refused(Refused),
    /// The connection already has a peer.
    AlreadyBound,
    /// The stream already has a class.
    StreamAlreadyBound,
    /// The connection is closed.
    Closed,
    /// The peer key or the class's name is too long.
    NameTooLong(NameTooLong),
}

impl BindError {
    /// The refusal and its numbers, if it was refused.
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

impl From<Closed> for BindError {
    fn from(Closed: Closed) -> Self {
        BindError::Closed
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
            BindError::AlreadyBound => f.write_str("the connection already has a peer"),
            BindError::StreamAlreadyBound => f.write_str("the stream already has a class"),
            BindError::Closed => Closed.fmt(f),
            BindError::NameTooLong(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {}

/// A configuration that a governor cannot be built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size class is not a power of two from [`crate::MIN_BLOCK_BYTES`] to
    /// [`crate::MAX_BLOCK_BYTES`].
    ClassSize {
        /// The size given, in bytes.
        bytes: usize,
    },
    /// There are no size classes, or more than [`crate::MAX_SIZE_CLASSES`].
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
    /// Text that is no [`Rate`](crate::Rate).
    NotARate,
    /// A rate of nothing at all.
    NoRate,
    /// A rate more often than once in a nanosecond, or less often than once in
    /// [`Rate::MAX_INTERVAL`](crate::Rate::MAX_INTERVAL).
    RateOutOfRange,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::ClassSize { bytes } => write!(
                f,
                "a size class of {bytes} bytes is not a power of two \
                 from {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"
            ),
            ConfigError::ClassCount { count } => {
                write!(f, "{count} size classes were given; 1 to {MAX_SIZE_CLASSES} are possible")
            }
            ConfigError::ClassOrder { bytes } => {
                write!(f, "size classes must ascend, but {bytes} bytes follows a size not below it")
            }
            ConfigError::NameTooLong(error) => error.fmt(f),
            ConfigError::ClassNames { count } => {
                write!(
                    f,
                    "{count} classes have limits of their own; {MAX_CLASS_NAMES} are possible"
                )
            }
            ConfigError::PrefixLength { length, most } => {
                write!(f, "a prefix length of {length} is more than the {most} bits of the address")
            }
            ConfigError::NotARate => {
                f.write_str("this is no rate; expected one such as \"12/m\", \"0.2/s\" or \"1/5s\"")
            }
            ConfigError::NoRate => f.write_str("a rate of 0 lets nothing in; block it instead"),
            ConfigError::RateOutOfRange => {
                let days = MAX_RATE_INTERVAL.as_secs() / (24 * 60 * 60);
                write!(
                    f,
                    "the rate is more than one in a nanosecond, or less than one in {days} days"
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Makes each error an [`io::Error`] of a kind, with the whole error inside.
macro_rules! io_errors {
    ($($error:ident => $kind:expr,)+) => {$(
        impl From<$error> for io::Error {
            fn from(error: $error) -> Self {
                let kind: fn(&$error) -> io::ErrorKind = $kind;
                io::Error::new(kind(&error), error)
            }
        }
    )+};
}

io_errors! {
    Refused => Refused::io_kind,
    Closed => |_| io::ErrorKind::ConnectionAborted,
    Revoked => |_| io::ErrorKind::ConnectionAborted,
    NameTooLong => |_| io::ErrorKind::InvalidInput,
    ConfigError => |_| io::ErrorKind::InvalidInput,
    LeaseError => |error| match error {
        LeaseError::Refused(refused) | LeaseError::NeverFits(refused) => refused.io_kind(),
        LeaseError::Closed => io::ErrorKind::ConnectionAborted,
    },
    AdmitError => |error| match error {
        AdmitError::Refused(refused) => refused.io_kind(),
        AdmitError::NameTooLong(_) => io::ErrorKind::InvalidInput,
    },
    BindError => |error| match error {
        BindError::Refused(refused) => refused.io_kind(),
        BindError::AlreadyBound | BindError::StreamAlreadyBound => io::ErrorKind::AlreadyExists,
        BindError::Closed => io::ErrorKind::ConnectionAborted,
        BindError::NameTooLong(_) => io::ErrorKind::InvalidInput,
    },
}

const _: () = {
    assert!(size_of::<LeaseError>() <= 64);
    assert!(size_of::<AdmitError>() <= 64);
    assert!(size_of::<BindError>() <= 64);
    assert!(size_of::<ConfigError>() <= 64);
};
