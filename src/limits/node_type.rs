//! Limits for the usual kinds of node, scaled to the machine.

mod presets;

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::limits::{Host, Limits};

/// What a node is for, which decides its limits.
///
/// ```
/// use leasehold::{Host, Limit, NodeType};
///
/// let node: NodeType = "full".parse()?;
/// let limits = node.limits(&Host::new(8 << 30, 65_536));
/// assert_eq!(limits.system.connections, Limit::Max(256));
/// assert_eq!(limits.system.memory, Limit::Max(1152 << 20));
/// assert!(limits.check().is_empty());
/// # Ok::<(), leasehold::UnknownNodeType>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum NodeType {
    /// A client: an app, an embedded device, a wallet.
    ///
    /// It opens nearly all of its connections itself, to a few servers that it chose, and shares
    /// the machine with programs that matter more. So few strangers come in, the increase with
    /// memory is a quarter of a full node's, and it takes an eighth of the descriptors.
    Light,
    /// A node that does a bit of everything; what to begin with.
    ///
    /// These are the defaults of go-libp2p's resource manager (rcmgr) v0.48, which thousands of
    /// nodes have run for years. What it calls a service or a protocol is a class here, with the
    /// larger limit of the two, as far as the system's own allow it. One of its increases is meant
    /// in mebibytes but written in bytes; here, a peer's part of a class grows by 4 MiB.
    Full,
    /// A node that passes on the streams of others.
    ///
    /// It holds a connection for each node that cannot be reached otherwise, mostly idle, and every
    /// circuit is two streams that need little more than a window. So there are sixteen times the
    /// streams and connections of a full node as memory grows, each with little memory; and one
    /// peer's circuits cannot take what is there for all.
    Relay,
    /// A node that newcomers ask for others.
    ///
    /// Very many come in, ask one question and leave. So half of everything may be in a handshake,
    /// and no peer gets much: two connections, some streams, and 2 MiB that do not grow with the
    /// machine. Large messages do not fit, nor are there any.
    Bootstrap,
    /// A node whose own traffic must get through, even if that of strangers is refused.
    ///
    /// It talks with few peers, known and long-lived, which send large messages all at once. So
    /// there are few connections with much memory each; inbound connections cannot have a third of
    /// all; and unknown peers get a small part.
    Validator,
    /// A node that serves clients on the web.
    ///
    /// Browsers come in large numbers, many of them behind one address, with many requests at a
    /// time; and few ever name themselves. So one address or peer may have many connections,
    /// those without a peer three quarters of everything, and each connection little memory.
    Gateway,
}

impl NodeType {
    /// Every type.
    pub const ALL: &[Self] =
        &[Self::Light, Self::Full, Self::Relay, Self::Bootstrap, Self::Validator, Self::Gateway];

    /// Limits for such a node on this host.
    ///
    /// Each is a base, good for a budget of 128 MiB; above that comes an increase with every MiB of
    /// the budget. Of the descriptors, half are shared out: the rest is for files, and for sockets
    /// that were accepted but not admitted yet. A base of descriptors is given even where half
    /// of the host's are fewer, but never more than there are.
    ///
    /// On every host from 512 MiB, unless its budget is set, all that is admitted takes at most
    /// half of the memory, allow-listed connections included: both systems together, if they fill
    /// up. [`Light`](Self::Light) keeps that promise from 128 MiB.
    pub fn limits(self, host: &Host) -> Limits {
        presets::of(self).on(host)
    }

    fn name(self) -> &'static str {
        match self {
            NodeType::Light => "light",
            NodeType::Full => "full",
            NodeType::Relay => "relay",
            NodeType::Bootstrap => "bootstrap",
            NodeType::Validator => "validator",
            NodeType::Gateway => "gateway",
        }
    }
}

/// In lower case, as it is read.
impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NodeType {
    type Err = UnknownNodeType;

    fn from_str(name: &str) -> Result<Self, UnknownNodeType> {
        let named = |node_type: &&Self| node_type.name() == name;
        Self::ALL.iter().find(named).copied().ok_or(UnknownNodeType)
    }
}

/// There is no [`NodeType`] of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownNodeType;

impl fmt::Display for UnknownNodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such type of node; there are")?;
        for (nth, node_type) in NodeType::ALL.iter().enumerate() {
            let before = match nth {
                0 => " ",
                nth if nth + 1 == NodeType::ALL.len() => " and ",
                _ => ", ",
            };
            write!(f, "{before}{node_type}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownNodeType {}

impl From<UnknownNodeType> for io::Error {
    fn from(error: UnknownNodeType) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}
