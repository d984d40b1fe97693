//! Where a connection comes from, in the few bytes that its record has for it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::name::Source;

/// An address, or nothing.
#[derive(Clone, Copy)]
pub(super) struct Remote {
    kind: Kind,
    port: u16,
    address: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    None,
    Ipv4,
    Ipv6,
    Ipv4Port,
    Ipv6Port,
}

impl Remote {
    pub(super) const NONE: Self = Self { kind: Kind::None, port: 0, address: [0; 16] };

    /// `None` if the source does not fit: it is opaque, or an address with a scope or a flow.
    pub(super) fn new(source: &Source) -> Option<Self> {
        let (ip, port) = if let Some(address) = source.address() {
            if let SocketAddr::V6(v6) = address
                && (v6.flowinfo(), v6.scope_id()) != (0, 0)
            {
                return None;
            }
            (address.ip(), Some(address.port()))
        } else {
            (source.ip()?, None)
        };
        let (kind, address) = match (ip, port) {
            (IpAddr::V4(ip), None) => (Kind::Ipv4, ip.to_ipv6_mapped().octets()),
            (IpAddr::V4(ip), Some(_)) => (Kind::Ipv4Port, ip.to_ipv6_mapped().octets()),
            (IpAddr::V6(ip), None) => (Kind::Ipv6, ip.octets()),
            (IpAddr::V6(ip), Some(_)) => (Kind::Ipv6Port, ip.octets()),
        };
        Some(Self { kind, port: port.unwrap_or_default(), address })
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.address);
        match self.kind {
            Kind::None => None,
            Kind::Ipv4 | Kind::Ipv4Port => address.to_ipv4_mapped().map(IpAddr::V4),
            Kind::Ipv6 | Kind::Ipv6Port => Some(IpAddr::V6(address)),
        }
    }

    pub(super) fn source(&self) -> Option<Source> {
        let ip = self.ip()?;
        Some(match self.kind {
            Kind::Ipv4Port | Kind::Ipv6Port => SocketAddr::new(ip, self.port).into(),
            Kind::None | Kind::Ipv4 | Kind::Ipv6 => ip.into(),
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
            assert_eq!(Remote::new(&source).unwrap().source(), Some(source));
        }
        for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let source = Source::from(ip.parse::<IpAddr>().unwrap());
            assert_eq!(Remote::new(&source).unwrap().source(), Some(source));
        }
        assert_eq!(Remote::NONE.source(), None);
    }

    #[test]
    fn what_does_not_fit_is_told_apart() {
        let scoped: SocketAddr = "[fe80::1%7]:80".parse().unwrap();
        assert!(Remote::new(&scoped.into()).is_none());
        assert!(Remote::new(&Source::opaque("a pipe").unwrap()).is_none());
    }
}
