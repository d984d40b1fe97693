//! Who is admitted although the ordinary scopes refuse.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::name::PeerKey;

/// Connections that have scopes of their own to fall back on.
///
/// Tried only after the ordinary scopes, subnets and rates have refused, so that allow-listed
/// traffic uses its own scopes only when it has to. A rule names a network, a peer, or a peer in a
/// network. Where the peer is not known yet, a rule with both lets the connection in for now:
/// once it is bound to another peer it moves to the ordinary scopes, or is refused there. A rule
/// with a peer alone admits no unknown peer, or anyone could use it up.
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
    rules: Vec<AllowRule>,
}

/// One entry of an [`AllowList`]. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    network: Option<IpNet>,
    peer: Option<PeerKey>,
}

impl AllowRule {
    /// Where the connection must come from or go to.
    pub fn network(&self) -> Option<IpNet> {
        self.network
    }

    /// Which peer it must be.
    pub fn peer(&self) -> Option<&PeerKey> {
        self.peer.as_ref()
    }

    fn covers(&self, address: Option<IpAddr>, peer: Option<&[u8]>) -> bool {
        let network = match (self.network, address) {
            (Some(network), Some(address)) => network.contains(&address),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let peer = match (&self.peer, peer) {
            (Some(listed), Some(peer)) => listed.as_bytes() == peer,
            (Some(_), None) => self.network.is_some(),
            (None, _) => true,
        };
        network && peer
    }
}

impl AllowList {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everyone in a network.
    #[must_use]
    pub fn network(self, network: IpNet) -> Self {
        self.rule(Some(network), None)
    }

    /// A peer, wherever it is.
    #[must_use]
    pub fn peer(self, peer: PeerKey) -> Self {
        self.rule(None, Some(peer))
    }

    /// A peer as long as it is in a network.
    #[must_use]
    pub fn peer_in(self, peer: PeerKey, network: IpNet) -> Self {
        self.rule(Some(network), Some(peer))
    }

    /// The rules, in the order in which they were given.
    pub fn rules(&self) -> &[AllowRule] {
        &self.rules
    }

    fn rule(mut self, network: Option<IpNet>, peer: Option<PeerKey>) -> Self {
        let rule = AllowRule { network: network.map(|network| network.trunc()), peer };
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
        self
    }

    /// All of the rules, none of which is empty, however many they are.
    #[cfg(feature = "serde")]
    pub(super) fn of(rules: Vec<(Option<IpNet>, Option<PeerKey>)>) -> Self {
        let mut seen = std::collections::BTreeSet::new();
        let new = rules.into_iter().filter(|rule| seen.insert(rule.clone()));
        Self { rules: new.map(|(network, peer)| AllowRule { network, peer }).collect() }
    }

    /// Whether a connection may use the allow-listed scopes; for now, if `peer` is `None`.
    pub(crate) fn covers(&self, address: Option<IpAddr>, peer: Option<&[u8]>) -> bool {
        let address = address.map(|address| address.to_canonical());
        self.rules.iter().any(|rule| rule.covers(address, peer))
    }
}
