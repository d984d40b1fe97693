//! Connections that are admitted although the ordinary scopes refuse.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::name::PeerKey;

/// Connections that have scopes of their own to fall back on.
///
/// Tried only after the ordinary scopes, subnets and rates have refused, so that allow-listed
/// traffic uses its own scopes only when it has to. A rule names a network, a peer, or a peer in a
/// network. Where the peer is not known yet, a rule with both lets the connection in for now:
/// once it is bound to another peer it moves to the ordinary scopes, or is refused there. A rule
/// with a peer alone admits no unknown peer, or strangers could use its scopes up.
///
/// ```
/// use leasehold::{AllowList, PeerKey};
///
/// let allow = AllowList::new()
///     .network("192.0.2.0/24".parse()?)
///     .peer(PeerKey::new("alice")?)
///     .peer_in(PeerKey::new("bob")?, "2001:db8::/32".parse()?);
/// assert_eq!(allow.rules().len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Sorted, so that a flood of refused strangers never looks through all of them.
    rules: Vec<AllowRule>,
    /// The prefix lengths that rules have, of IPv4 and of IPv6.
    lengths: [BTreeSet<u8>; 2],
}

/// One entry of an [`AllowList`]. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowRule {
    network: Option<IpNet>,
    peer: Option<PeerKey>,
}

impl AllowRule {
    pub(super) fn new(network: Option<IpNet>, peer: Option<PeerKey>) -> Self {
        Self { network: network.map(canonical), peer }
    }

    /// Where the connection must come from or go to.
    pub fn network(&self) -> Option<IpNet> {
        self.network
    }

    /// Which peer it must be.
    pub fn peer(&self) -> Option<&PeerKey> {
        self.peer.as_ref()
    }
}

impl AllowList {
    /// No rules: every connection depends on the ordinary scopes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every connection from or to a network.
    #[must_use]
    pub fn network(self, network: IpNet) -> Self {
        self.rule(AllowRule::new(Some(network), None))
    }

    /// A peer, wherever it is.
    #[must_use]
    pub fn peer(self, peer: PeerKey) -> Self {
        self.rule(AllowRule::new(None, Some(peer)))
    }

    /// A peer as long as it is in a network.
    #[must_use]
    pub fn peer_in(self, peer: PeerKey, network: IpNet) -> Self {
        self.rule(AllowRule::new(Some(network), Some(peer)))
    }

    /// The rules, by network and then by peer.
    pub fn rules(&self) -> &[AllowRule] {
        &self.rules
    }

    fn rule(mut self, rule: AllowRule) -> Self {
        self.note_length(&rule);
        if let Err(place) = self.rules.binary_search(&rule) {
            self.rules.insert(place, rule);
        }
        self
    }

    /// All of the rules, however many they are.
    #[cfg(feature = "serde")]
    pub(super) fn of(mut rules: Vec<AllowRule>) -> Self {
        rules.sort_unstable();
        rules.dedup();
        let mut list = Self::default();
        rules.iter().for_each(|rule| list.note_length(rule));
        Self { rules, ..list }
    }

    fn note_length(&mut self, rule: &AllowRule) {
        if let Some(network) = rule.network {
            self.lengths[family(network.addr())].insert(network.prefix_len());
        }
    }

    /// Whether a connection may use the allow-listed scopes; for now, if `peer` is `None`. Costs a
    /// binary search for each length of prefix that the rules have.
    pub(crate) fn covers(&self, address: Option<IpAddr>, peer: Option<&[u8]>) -> bool {
        if peer.is_some() && self.has(None, peer) {
            return true;
        }
        let Some(address) = address.map(|address| address.to_canonical()) else { return false };
        self.lengths[family(address)].iter().any(|length| {
            let network = IpNet::new(address, *length).map(|network| network.trunc()).ok();
            match peer {
                Some(_) => self.has(network, None) || self.has(network, peer),
                None => {
                    let place = self.rules.partition_point(|rule| rule.network < network);
                    self.rules.get(place).is_some_and(|rule| rule.network == network)
                }
            }
        })
    }

    fn has(&self, network: Option<IpNet>, peer: Option<&[u8]>) -> bool {
        let key = |rule: &AllowRule| {
            (rule.network, rule.peer.as_ref().map(PeerKey::as_bytes)).cmp(&(network, peer))
        };
        self.rules.binary_search_by(key).is_ok()
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// A network of IPv4 addresses in IPv6 form is one of IPv4 addresses, as these are.
fn canonical(network: IpNet) -> IpNet {
    let network = network.trunc();
    let (address, length) = (network.addr().to_canonical(), network.prefix_len());
    if network.addr().is_ipv6() && address.is_ipv4() && length >= 96 {
        return IpNet::new(address, length - 96).unwrap_or(network);
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a look at every rule.
    #[test]
    fn the_search_finds_what_a_look_at_every_rule_finds() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut covered = 0;
        for _ in 0..300 {
            let address = |random: &mut fastrand::Rng| -> IpAddr {
                match random.u32(..3) {
                    0 => [10, 0, random.u8(..2), random.u8(..4)].into(),
                    1 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, random.u16(..4)].into(),
                    _ => [0, 0, 0, 0, 0, 0xffff, 0x0a00, random.u16(..4)].into(),
                }
            };
            let peer = |random: &mut fastrand::Rng| PeerKey::new([random.u8(..4)]).unwrap();
            let mut list = AllowList::new();
            for _ in 0..random.usize(..8) {
                let at = address(&mut random);
                let length = if at.is_ipv4() { random.u8(24..=32) } else { random.u8(120..=128) };
                let network = IpNet::new(at, length).unwrap();
                list = match random.u32(..3) {
                    0 => list.network(network),
                    1 => list.peer(peer(&mut random)),
                    _ => list.peer_in(peer(&mut random), network),
                };
            }
            for _ in 0..30 {
                let at = random.bool().then(|| address(&mut random));
                let who = random.bool().then(|| peer(&mut random));
                let expected = list.rules().iter().any(|rule| {
                    let here = rule.network().is_none_or(|network| {
                        at.is_some_and(|at| network.contains(&at.to_canonical()))
                    });
                    let him = match (rule.peer(), &who) {
                        (Some(listed), Some(peer)) => listed == peer,
                        (Some(_), None) => rule.network().is_some(),
                        (None, _) => true,
                    };
                    here && him
                });
                let found = list.covers(at, who.as_ref().map(PeerKey::as_bytes));
                assert_eq!(found, expected, "{list:?}: {at:?}, {who:?}");
                covered += u32::from(found);
            }
        }
        assert!((1_000..8_000).contains(&covered), "{covered} of 9,000");
    }
}
