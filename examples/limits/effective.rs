//! Every limit in force, and where it comes from.

use std::fmt;

use leasehold::{Host, Limit, Limits, NodeType, Rate, Resource, ScopeLimits};

use crate::file::File;

/// The limits of a node on a host.
pub struct Effective {
    pub host: Host,
    /// `None` if a file names none: then what it leaves out is unlimited.
    pub node_type: Option<NodeType>,
    pub limits: Limits,
    file: Option<File>,
}

/// Where a limit comes from.
#[derive(Clone, Copy, PartialEq)]
pub enum Origin {
    /// The type of node, on the smallest host.
    Preset,
    /// The type of node, on this host.
    Scaled,
    File,
    /// Nothing sets it.
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Preset => "preset",
            Origin::Scaled => "scaled",
            Origin::File => "file",
            Origin::Unset => "unset",
        })
    }
}

/// All limits of one scope.
pub struct ScopeRow {
    /// Its path in a file, such as `system` or `classes.public`.
    pub path: String,
    pub cells: Vec<Cell>,
}

/// One limit of a scope.
pub struct Cell {
    pub resource: Resource,
    pub limit: Limit,
    pub origin: Origin,
}

/// The limits by one prefix length, or of one network.
pub struct SubnetRow {
    /// Its path in a file, such as `subnets.ipv4.32`.
    pub path: String,
    pub connections: Limit,
    pub rate: Option<Rate>,
    pub origin: Origin,
}

/// In the order of the columns, each with its name in a file.
pub const RESOURCES: [(Resource, &str); 8] = [
    (Resource::Memory, "memory"),
    (Resource::ConnectionsInbound, "connections_inbound"),
    (Resource::ConnectionsOutbound, "connections_outbound"),
    (Resource::Connections, "connections"),
    (Resource::StreamsInbound, "streams_inbound"),
    (Resource::StreamsOutbound, "streams_outbound"),
    (Resource::Streams, "streams"),
    (Resource::Fds, "fds"),
];

/// The name of a resource in a file.
pub fn key(resource: Resource) -> &'static str {
    let named = RESOURCES.iter().find(|(named, _)| *named == resource);
    named.map_or("?", |(_, name)| name)
}

/// A limit of one scope.
type Pick = fn(&Limits) -> &ScopeLimits;

/// The scopes that every node has.
const SCOPES: [(&str, Pick); 9] = [
    ("system", |limits| &limits.system),
    ("transient", |limits| &limits.transient),
    ("allowlisted_system", |limits| &limits.allowlisted_system),
    ("allowlisted_transient", |limits| &limits.allowlisted_transient),
    ("peer", |limits| &limits.peer),
    ("class_default", |limits| &limits.class_default),
    ("class_peer_default", |limits| &limits.class_peer_default),
    ("connection", |limits| &limits.connection),
    ("stream", |limits| &limits.stream),
];

impl Effective {
    pub fn of_preset(node_type: NodeType, host: Host) -> Self {
        let limits = node_type.limits(&host);
        Self { host, node_type: Some(node_type), limits, file: None }
    }

    pub fn of_file(file: File, host: Host) -> Self {
        let (node_type, limits) = (file.node_type(), file.limits(&host));
        Self { host, node_type, limits, file: Some(file) }
    }

    /// Every scope that has limits: those that every node has, then those by name.
    pub fn scopes(&self) -> Vec<ScopeRow> {
        let common = SCOPES.iter().map(|(path, pick)| {
            self.row((*path).to_owned(), pick(&self.limits), |resource, limit| {
                self.origin(*pick, resource, limit)
            })
        });
        let limits = &self.limits;
        let peers = limits.peers.iter().map(|(peer, limits)| (format!("peers.{peer}"), limits));
        let classes = limits.classes.iter().map(|(name, limits)| (of("classes", name), limits));
        let parts = limits.class_peers.iter();
        let parts = parts.map(|(name, limits)| (of("class_peers", name), limits));
        // No preset has names, so what they do not set is not set at all.
        let named = peers
            .chain(classes)
            .chain(parts)
            .map(|(path, limits)| self.row(path, limits, |_, _| Origin::Unset));
        common.chain(named).collect()
    }

    /// Every limit by address.
    pub fn subnets(&self) -> Vec<SubnetRow> {
        let subnets = &self.limits.subnets;
        let lengths = |family, lengths: &std::collections::BTreeMap<u8, _>| -> Vec<_> {
            let paths = lengths.iter();
            paths.map(|(length, limits)| (format!("subnets.{family}.{length}"), *limits)).collect()
        };
        let networks = subnets.networks.iter();
        let networks =
            networks.map(|(network, limits)| (format!("subnets.networks.{network}"), *limits));
        lengths("ipv4", &subnets.ipv4)
            .into_iter()
            .chain(lengths("ipv6", &subnets.ipv6))
            .chain(networks)
            .map(|(path, limits)| SubnetRow {
                origin: if self.in_file(&path) { Origin::File } else { Origin::Preset },
                path,
                connections: limits.connections,
                rate: limits.rate,
            })
            .collect()
    }

    fn row(
        &self,
        path: String,
        limits: &ScopeLimits,
        otherwise: impl Fn(Resource, Limit) -> Origin,
    ) -> ScopeRow {
        let cells = RESOURCES.map(|(resource, key)| {
            let limit = limits.of(resource);
            let origin = if self.in_file(&format!("{path}.{key}")) {
                Origin::File
            } else {
                otherwise(resource, limit)
            };
            Cell { resource, limit, origin }
        });
        ScopeRow { path, cells: cells.into() }
    }

    fn in_file(&self, path: &str) -> bool {
        self.file.as_ref().is_some_and(|file| file.sets(path))
    }

    /// Where a limit comes from that is in no file: it is scaled if the smallest host has another.
    fn origin(&self, pick: Pick, resource: Resource, limit: Limit) -> Origin {
        let Some(node_type) = self.node_type else { return Origin::Unset };
        let smallest = match (resource, limit) {
            // Only a base stays when there are no more descriptors than it takes.
            (Resource::Fds, Limit::Max(fds)) => Host::new(0, fds),
            _ => Host::new(0, self.host.fds()),
        };
        if pick(&node_type.limits(&smallest)).of(resource) == limit {
            Origin::Preset
        } else {
            Origin::Scaled
        }
    }
}

fn of(kind: &str, name: &str) -> String {
    format!("{kind}.{}", name.escape_debug())
}
