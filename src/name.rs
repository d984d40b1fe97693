//! What connections and peers are called.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::error::NameTooLong;

/// The longest peer key, class name or opaque source, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// A connection, for as long as anyone remembers it. Plain data: it keeps nothing alive, and is
/// never used for another connection of the same governor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A peer: opaque bytes, at most [`MAX_NAME_BYTES`] of them.
///
/// ```
/// use leasehold::PeerKey;
///
/// assert_eq!(PeerKey::new("12D3KooW…")?.as_bytes(), "12D3KooW…".as_bytes());
/// assert_eq!(PeerKey::new([7; 65]).unwrap_err().len(), 65);
/// # Ok::<(), leasehold::NameTooLong>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(Box<[u8]>);

impl PeerKey {
    /// Copies the key.
    ///
    /// # Errors
    ///
    /// If it has more than [`MAX_NAME_BYTES`] bytes.
    pub fn new(key: impl AsRef<[u8]>) -> Result<Self, NameTooLong> {
        bounded(key.as_ref()).map(|key| Self(key.into()))
    }

    pub(crate) fn of_bounded(key: &[u8]) -> Self {
        Self(key.into())
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for PeerKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// So that maps by peer can be searched with plain bytes.
impl Borrow<[u8]> for PeerKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({self})")
    }
}

/// Escaped, so that what a remote peer chose does no harm in a log.
impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// Where a connection comes from, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source(Origin);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Address(SocketAddr),
    Ip(IpAddr),
    Opaque(Box<[u8]>),
}

impl Source {
    /// A source that is no address: a circuit, a pipe, a process.
    ///
    /// # Errors
    ///
    /// If it has more than [`MAX_NAME_BYTES`] bytes.
    pub fn opaque(source: impl AsRef<[u8]>) -> Result<Self, NameTooLong> {
        bounded(source.as_ref()).map(|source| Self(Origin::Opaque(source.into())))
    }

    /// The address with its port, if it was given so.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.0 {
            Origin::Address(address) => Some(address),
            Origin::Ip(_) | Origin::Opaque(_) => None,
        }
    }

    /// The address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0 {
            Origin::Address(address) => Some(address.ip()),
            Origin::Ip(ip) => Some(ip),
            Origin::Opaque(_) => None,
        }
    }
}

impl From<SocketAddr> for Source {
    fn from(address: SocketAddr) -> Self {
        Self(Origin::Address(address))
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self(Origin::Ip(ip))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Origin::Address(address) => address.fmt(f),
            Origin::Ip(ip) => ip.fmt(f),
            Origin::Opaque(bytes) => bytes.escape_ascii().fmt(f),
        }
    }
}

/// Which side opened a connection or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The remote side.
    Inbound,
    /// This side.
    Outbound,
}

fn bounded(name: &[u8]) -> Result<&[u8], NameTooLong> {
    if name.len() > MAX_NAME_BYTES { Err(NameTooLong { len: name.len() }) } else { Ok(name) }
}
