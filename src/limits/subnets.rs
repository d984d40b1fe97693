//! Limits by where an inbound connection comes from.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::rate::Rate;
use crate::limit::Limit;

/// Limits of inbound connections by the prefix of their address.
///
/// Every prefix length here is a limit for each prefix of that length: `ipv4` at 32 limits each
/// single IPv4 address, `ipv6` at 56 each customer of most providers. An address that lies in one
/// of the `networks` is counted there, in the longest that fits, and nowhere else.
///
/// An IPv4 address in IPv6 form (`::ffff:192.0.2.1`) counts as the IPv4 address. Connections
/// without an address, those the program opens itself, and allow-listed ones are not counted.
///
/// ```
/// use leasehold::{Limit, PrefixLimits, SubnetLimits};
///
/// let subnets = SubnetLimits::standard()
///     .ipv4(24, PrefixLimits::unlimited().connections(64))
///     .network("10.0.0.0/8".parse()?, PrefixLimits::unlimited());
/// assert_eq!(subnets.ipv4[&32].connections, Limit::Max(8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubnetLimits {
    /// Limits for each IPv4 prefix, by its length from 0 to 32.
    pub ipv4: BTreeMap<u8, PrefixLimits>,
    /// Limits for each IPv6 prefix, by its length from 0 to 128.
    pub ipv6: BTreeMap<u8, PrefixLimits>,
    /// Limits for single networks as a whole.
    pub networks: BTreeMap<IpNet, PrefixLimits>,
}

impl SubnetLimits {
    /// No limit by address.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// The defaults of go-libp2p's resource manager: eight connections and one new one in five
    /// seconds for an IPv4 address (a burst of 16) or an IPv6 /56 (of 16), 64 connections and one
    /// in two seconds for an IPv6 /48 (of 80); loopback is free.
    pub fn standard() -> Self {
        let each = |connections: u64, rate| PrefixLimits {
            connections: connections.into(),
            rate: Some(rate),
        };
        Self::unlimited()
            .ipv4(32, each(8, Rate::per_minute(12).burst(16)))
            .ipv6(56, each(8, Rate::per_minute(12).burst(16)))
            .ipv6(48, each(64, Rate::per_minute(30).burst(80)))
            .network(IpNet::new_assert([127, 0, 0, 0].into(), 8), PrefixLimits::unlimited())
            .network(
                IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
                PrefixLimits::unlimited(),
            )
    }

    /// Limits each IPv4 prefix of this length.
    #[must_use]
    pub fn ipv4(mut self, length: u8, limits: PrefixLimits) -> Self {
        self.ipv4.insert(length, limits);
        self
    }

    /// Limits each IPv6 prefix of this length.
    #[must_use]
    pub fn ipv6(mut self, length: u8, limits: PrefixLimits) -> Self {
        self.ipv6.insert(length, limits);
        self
    }

    /// Limits one network, whose addresses no other prefix limit applies to.
    #[must_use]
    pub fn network(mut self, network: IpNet, limits: PrefixLimits) -> Self {
        self.networks.insert(network.trunc(), limits);
        self
    }
}

/// What the connections from one prefix may be together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixLimits {
    /// Connections at the same time.
    pub connections: Limit,
    /// New connections; `None` is unlimited.
    pub rate: Option<Rate>,
}

impl PrefixLimits {
    /// No limit.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// Sets [`connections`](field@Self::connections).
    #[must_use]
    pub fn connections(mut self, limit: impl Into<Limit>) -> Self {
        self.connections = limit.into();
        self
    }

    /// Sets [`rate`](field@Self::rate).
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }
}
