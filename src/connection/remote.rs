//! Where a connection comes from, in the few bytes that its record has for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::name::Source;
use crate::sync::unmodelled::{AtomicU32, Relaxed};

/// An address, or nothing. Read and written under the connection's mutex; the atomics are there only
/// because this part of the record lies outside it.
pub(super) struct Remote {
    /// The kind in the low half, the port in the high one.
    kind: AtomicU32,
    address: [AtomicU32; 4],
}

const NONE: u32 = 0;
const IP: u32 = 1;
const IP_AND_PORT: u32 = 2;
/// IPv4, in the first word.
const V4: u32 = 4;

impl Remote {
    pub(super) fn none() -> Self {
        Self { kind: AtomicU32::new(NONE), address: Default::default() }
    }

    /// `false`, and nothing is kept, if the source does not fit: it is opaque, or an address with a
    /// scope or a flow.
    pub(super) fn set(&self, source: &Source) -> bool {
        self.kind.store(NONE, Relaxed);
        let (kind, ip, port) = match (source.address(), source.ip()) {
            (Some(SocketAddr::V6(v6)), _) if (v6.flowinfo(), v6.scope_id()) != (0, 0) => {
                return false;
            }
            (Some(address), _) => (IP_AND_PORT, address.ip(), address.port()),
            (None, Some(ip)) => (IP, ip, 0),
            (None, None) => return false,
        };
        let (family, bits) = match ip {
            IpAddr::V4(ip) => (V4, ip.to_bits().into()),
            IpAddr::V6(ip) => (0, ip.to_bits()),
        };
        for (nth, word) in self.address.iter().enumerate() {
            word.store((bits >> (32 * nth)) as u32, Relaxed);
        }
        self.kind.store(kind | family | u32::from(port) << 16, Relaxed);
        true
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        let kind = self.kind.load(Relaxed);
        if kind == NONE {
            return None;
        }
        if kind & V4 != 0 {
            return Some(Ipv4Addr::from_bits(self.address[0].load(Relaxed)).into());
        }
        let words = self.address.iter().rev().map(|word| u128::from(word.load(Relaxed)));
        Some(Ipv6Addr::from_bits(words.fold(0, |bits, word| bits << 32 | word)).into())
    }

    pub(super) fn source(&self) -> Option<Source> {
        let ip = self.ip()?;
        let kind = self.kind.load(Relaxed);
        Some(match kind & IP_AND_PORT {
            0 => ip.into(),
            _ => SocketAddr::new(ip, (kind >> 16) as u16).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_comes_back_whole() {
        for address in ["192.0.2.1:80", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:1", "[::]:0"] {
            let source = Source::from(address.parse::<SocketAddr>().unwrap());
            let remote = Remote::none();
            assert!(remote.set(&source));
            assert_eq!(remote.source(), Some(source));
        }
        for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let source = Source::from(ip.parse::<IpAddr>().unwrap());
            let remote = Remote::none();
            assert!(remote.set(&source));
            assert_eq!(remote.source(), Some(source));
        }
        assert_eq!(Remote::none().source(), None);
    }

    #[test]
    fn what_does_not_fit_is_told_apart() {
        let scoped: SocketAddr = "[fe80::1%7]:80".parse().unwrap();
        let remote = Remote::none();
        for source in [scoped.into(), Source::opaque("a pipe").unwrap()] {
            assert!(remote.set(&IpAddr::from([192, 0, 2, 1]).into()));
            assert!(!remote.set(&source));
            assert_eq!(remote.source(), None);
        }
    }
}
