//! What connections and peers are called.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::error::NameTooLong;
use crate::ranges::MAX_NAME_BYTES;

/// Names a connection. Plain data: it keeps nothing alive, and is never used for another connection
/// of the same governor. Ids compare in the order in which connections were admitted.
#[derive(Clone, Copy)]
pub struct ConnectionId {
    /// Never used twice, so this alone tells connections apart.
    serial: u64,
    /// Where the registry looks first.
    slot: u32,
}

impl ConnectionId {
    pub(crate) fn new(serial: u64, slot: u32) -> Self {
        Self { serial, slot }
    }

    pub(crate) fn serial(self) -> u64 {
        self.serial
    }

    pub(crate) fn slot(self) -> u32 {
        self.slot
    }
}

impl PartialEq for ConnectionId {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for ConnectionId {}

impl PartialOrd for ConnectionId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ConnectionId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.serial.cmp(&other.serial)
    }
}

impl Hash for ConnectionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.serial.hash(state);
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionId").field(&self.serial).finish()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

/// A peer: opaque bytes, at most [`MAX_NAME_BYTES`] of them, kept inside the value.
///
/// Text, bytes and addresses become keys by themselves where one is needed. An address becomes the
/// text that people write for it, and an IPv4 address in IPv6 form the IPv4 address.
///
/// ```
/// use leasehold::PeerKey;
/// use std::net::IpAddr;
///
/// assert_eq!(PeerKey::new("12D3KooW…")?.as_bytes(), "12D3KooW…".as_bytes());
/// assert_eq!(PeerKey::new([7; 65]).unwrap_err().len(), 65);
/// assert_eq!(PeerKey::from(IpAddr::from([192, 0, 2, 1])), PeerKey::new("192.0.2.1")?);
/// # Ok::<(), leasehold::NameTooLong>(())
/// ```
#[derive(Clone)]
pub struct PeerKey {
    len: u8,
    bytes: [u8; MAX_NAME_BYTES],
}

impl PeerKey {
    /// Copies the key.
    ///
    /// # Errors
    ///
    /// If it has more than [`MAX_NAME_BYTES`] bytes.
    pub fn new(key: impl AsRef<[u8]>) -> Result<Self, NameTooLong> {
        bounded(key.as_ref()).map(Self::of_bounded)
    }

    /// Copies a key that is known to be short enough.
    pub(crate) fn of_bounded(key: &[u8]) -> Self {
        let mut bytes = [0; MAX_NAME_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        Self { len: key.len() as u8, bytes }
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

const _: () = assert!(MAX_NAME_BYTES <= u8::MAX as usize);

impl AsRef<[u8]> for PeerKey {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// So that maps by peer can be searched with plain bytes.
impl Borrow<[u8]> for PeerKey {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for PeerKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for PeerKey {}

impl Hash for PeerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for PeerKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PeerKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        let mut bytes = [0; MAX_NAME_BYTES];
        let mut rest = &mut bytes[..];
        write!(rest, "{}", address.to_canonical())
            .expect("an address is at most 39 characters long");
        let len = MAX_NAME_BYTES - rest.len();
        Self { len: len as u8, bytes }
    }
}

impl From<&PeerKey> for PeerKey {
    fn from(key: &PeerKey) -> Self {
        key.clone()
    }
}

/// Makes keys of what is bytes already.
macro_rules! keys_of_bytes {
    ($([$($generics:tt)*] $bytes:ty),+ $(,)?) => {$(
        impl<$($generics)*> TryFrom<$bytes> for PeerKey {
            type Error = NameTooLong;

            fn try_from(key: $bytes) -> Result<Self, NameTooLong> {
                Self::new(key)
            }
        }
    )+};
}

keys_of_bytes! {
    [] &str,
    [] &String,
    [] String,
    [] &[u8],
    [] &Vec<u8>,
    [] Vec<u8>,
    [const N: usize] &[u8; N],
    [const N: usize] [u8; N],
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({self})")
    }
}

/// Escaped, so that what a remote peer chose does no harm in a log.
impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ConnectionId;

    #[test]
    fn only_the_serial_number_tells_connections_apart() {
        let [here, there] = [ConnectionId::new(7, 1), ConnectionId::new(7, 2)];
        assert_eq!(here, there);
        assert_eq!(HashSet::from([here, there]).len(), 1);
        assert!(ConnectionId::new(8, 0) > here);
        assert_eq!(
            (here.to_string(), format!("{here:?}")),
            ("#7".into(), "ConnectionId(7)".into())
        );
    }
}
