//! What can go wrong, one type per kind of operation.
//!
//! Every error is at most 64 bytes, allocates nothing, and carries the numbers a person needs.
//! Each that a connection can meet converts into [`std::io::Error`], so that `?` works in transport
//! code.

mod refused;

use std::fmt;
use std::io;

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
    assert!(size_of::<LeaseError>() <= 64);
    assert!(size_of::<AdmitError>() <= 64);
    assert!(size_of::<BindError>() <= 64);
    assert!(size_of::<ConfigError>() <= 64);
};
