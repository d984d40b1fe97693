//! What a node is for.

use std::fmt;
use std::str::FromStr;

use super::{Host, Limits};

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeType {
    /// Uses the network.
    Light,
    /// Serves it.
    Full,
    /// Relays others.
    Relay,
    /// Is where others begin.
    Bootstrap,
    /// Decides.
    Validator,
    /// Leads into another network.
    Gateway,
}

impl NodeType {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Light, Self::Full, Self::Relay, Self::Bootstrap, Self::Validator, Self::Gateway];

    /// The limits of such a node on this host.
    pub fn limits(self, host: &Host) -> Limits {
        use super::{ScopeLimits, SubnetLimits};
        Limits::unlimited()
            .system(ScopeLimits::unlimited().memory(host.budget()).fds(host.fds() / 2))
            .peer(ScopeLimits::unlimited().memory(host.budget() / 16).connections(8))
            .subnets(SubnetLimits::standard())
    }
}

impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Light => "light",
            Self::Full => "full",
            Self::Relay => "relay",
            Self::Bootstrap => "bootstrap",
            Self::Validator => "validator",
            Self::Gateway => "gateway",
        })
    }
}

impl FromStr for NodeType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|t| t.to_string() == name).ok_or_else(|| name.to_owned())
    }
}
