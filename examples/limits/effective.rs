//! Every limit in force, and where it comes from.

use std::collections::BTreeMap;
use std::fmt;

use leasehold::{
    Host, Limit, Limits, NodeType, PrefixLimits, Rate, Resource, ScopeLimits, SubnetLimits,
};

use crate::file::{File, path_of, path_of_peer};

/// The limits of a node on a host.
pub struct Effective {
    /// With the budget and the descriptors of the file, if it has any.
    pub host: Host,
    /// `None` if a file names none: then what it leaves out is unlimited.
    pub node_type: Option<NodeType>,
    pub limits: Limits,
    pub file: Option<File>,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    pub connections: (Limit, Origin),
    pub rate: (Option<Rate>, Origin),
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

/// A scope that every node has, and its path in a file.
pub type Section = (&'static str, fn(&Limits) -> &ScopeLimits);

const PEER: Section = ("peer", |limits| &limits.peer);
const CLASS: Section = ("class_default", |limits| &limits.class_default);
const CLASS_PEER: Section = ("class_peer_default", |limits| &limits.class_peer_default);

const SECTIONS: [Section; 9] = [
    ("system", |limits| &limits.system),
    ("transient", |limits| &limits.transient),
    ("allowlisted_system", |limits| &limits.allowlisted_system),
    ("allowlisted_transient", |limits| &limits.allowlisted_transient),
    PEER,
    CLASS,
    CLASS_PEER,
    ("connection", |limits| &limits.connection),
    ("stream", |limits| &limits.stream),
];

/// The scopes of some limits by their paths, each with the section that it has the rest from.
pub fn scopes_of(limits: &Limits) -> Vec<(String, ScopeLimits, Section)> {
    let Limits { peers, classes, class_peers, .. } = limits;
    let common = SECTIONS.into_iter();
    let common = common.map(|section| (section.0.to_owned(), *section.1(limits), section));
    let peers = peers.iter().map(|(peer, limits)| (path_of_peer(peer), *limits, PEER));
    let classes = classes.iter();
    let classes = classes.map(|(name, limits)| (path_of("classes", name), *limits, CLASS));
    let parts = class_peers.iter();
    let parts = parts.map(|(name, limits)| (path_of("class_peers", name), *limits, CLASS_PEER));
    common.chain(peers).chain(classes).chain(parts).collect()
}

impl Effective {
    pub fn of_preset(node_type: NodeType, host: Host) -> Self {
        let limits = node_type.limits(&host);
        Self { host, node_type: Some(node_type), limits, file: None }
    }

    pub fn of_file(file: File, host: Host) -> Self {
        let limits = file.limits.limits(&host);
        let (node_type, host) = (file.limits.node_type(), file.limits.host(&host));
        Self { host, node_type, limits, file: Some(file) }
    }

    /// Every scope that has limits: those that every node has, then those by name.
    pub fn scopes(&self) -> Vec<ScopeRow> {
        let scopes = scopes_of(&self.limits).into_iter();
        scopes.map(|(path, limits, section)| self.row(path, &limits, &section)).collect()
    }

    /// Every limit by address.
    pub fn subnets(&self) -> Vec<SubnetRow> {
        let SubnetLimits { ipv4, ipv6, networks, .. } = &self.limits.subnets;
        let of_node_type = self.node_type.map(|node_type| node_type.limits(&self.host).subnets);
        let of_node_type = of_node_type.unwrap_or_default();
        let ipv4 = self.prefixes("subnets.ipv4", ipv4, &of_node_type.ipv4);
        let ipv6 = self.prefixes("subnets.ipv6", ipv6, &of_node_type.ipv6);
        let networks = self.prefixes("subnets.networks", networks, &of_node_type.networks);
        ipv4.into_iter().chain(ipv6).chain(networks).collect()
    }

    /// Where the allow list, or which scopes only observe, comes from. No type of node has any.
    pub fn origin_of_list(&self, path: &str) -> Origin {
        if self.in_file(path) { Origin::File } else { Origin::Unset }
    }

    /// The limits at a path. What the file does not set there is as in a section, or scaled.
    fn row(&self, path: String, limits: &ScopeLimits, section: &Section) -> ScopeRow {
        let cells = RESOURCES.map(|(resource, key)| {
            let limit = limits.of(resource);
            let paths = [path.as_str(), section.0].map(|path| format!("{path}.{key}"));
            let origin = if paths.iter().any(|path| self.in_file(path)) {
                Origin::File
            } else {
                self.origin(section, resource, limit)
            };
            Cell { resource, limit, origin }
        });
        ScopeRow { path, cells: cells.into() }
    }

    fn prefixes<K: Ord + fmt::Display>(
        &self,
        kind: &str,
        limits: &BTreeMap<K, PrefixLimits>,
        of_node_type: &BTreeMap<K, PrefixLimits>,
    ) -> Vec<SubnetRow> {
        let row = |(key, limits): (&K, &PrefixLimits)| {
            let path = path_of(kind, &key.to_string());
            let origin = |value| match of_node_type.contains_key(key) {
                _ if self.in_file(&format!("{path}.{value}")) => Origin::File,
                true => Origin::Preset,
                false => Origin::Unset,
            };
            SubnetRow {
                connections: (limits.connections, origin("connections")),
                rate: (limits.rate, origin("rate")),
                path,
            }
        };
        limits.iter().map(row).collect()
    }

    fn in_file(&self, path: &str) -> bool {
        self.file.as_ref().is_some_and(|file| file.sets(path))
    }

    /// Where a limit comes from that is in no file: it is scaled if the smallest host has another.
    fn origin(&self, (_, pick): &Section, resource: Resource, limit: Limit) -> Origin {
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
