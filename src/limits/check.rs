//! Limits that can never be reached, because a scope above has a lower one.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Resource, Scope, Unit};
use crate::limit::Limit;
use crate::limits::{Limits, PrefixLimits, ScopeLimits};

impl Limits {
    /// How many warnings [`check`](Self::check) returns at most.
    pub const MAX_WARNINGS: usize = 100;

    /// The limits that promise more than the scopes above them have.
    ///
    /// Such limits work, but not as they read: the one above is reached first. Warned of are, for
    /// every resource,
    ///
    /// - transient connections above the system, allow-listed ones above theirs;
    /// - a peer, and each peer by name, above the system;
    /// - a class, and each class by name, above the system;
    /// - a peer's part of a class above the class, and above the peer;
    /// - a connection above a peer, and above transient connections;
    /// - a stream above a connection;
    /// - inbound or outbound above both together, in the same scope;
    /// - connections from a prefix of an address above those from a shorter one.
    ///
    /// Where the scope above has no limit, the next above it counts, and where inbound or outbound
    /// have none there, both together do. An unlimited scope promises nothing, so there is no
    /// warning of it. Below a limit that is [`Blocked`](Limit::Blocked), only peers and classes by
    /// name are warned of, so that to block something takes no change of every default.
    /// For the same reason, a default is never held against what is set by name for a single peer
    /// or class. Nor are connections held against file descriptors, which not every connection
    /// takes; or scopes against addresses, which are limits on another axis.
    ///
    /// At most [`MAX_WARNINGS`](Self::MAX_WARNINGS) are returned, the defaults before the names.
    ///
    /// ```
    /// use leasehold::{Limits, ScopeLimits};
    ///
    /// let limits = Limits::unlimited()
    ///     .system(ScopeLimits::unlimited().connections(100))
    ///     .transient(ScopeLimits::unlimited().connections(200));
    /// assert_eq!(
    ///     limits.check()[0].to_string(),
    ///     "the transient limit of 200 connections is never reached: \
    ///      the system limit is 100 connections",
    /// );
    /// ```
    pub fn check(&self) -> Vec<LimitWarning> {
        let places = self.defaults().chain(self.named());
        let scopes = places.flat_map(|(child, lines)| {
            let own = child.totals();
            own.chain(lines.into_iter().flat_map(move |line| child.above(line)))
        });
        let subnets = [("IPv4", &self.subnets.ipv4), ("IPv6", &self.subnets.ipv6)]
            .into_iter()
            .flat_map(|(family, lengths)| longer_above_shorter(family, lengths));

        let mut warnings: Vec<LimitWarning> = Vec::new();
        for warning in scopes.chain(subnets) {
            // Two lines of ancestors may meet in the same limit.
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            if warnings.len() == Self::MAX_WARNINGS {
                break;
            }
        }
        warnings
    }

    /// Each scope that has no name, and what is above it.
    fn defaults(&self) -> impl Iterator<Item = (Place<'_>, Lines<'_>)> {
        let system = Place::of(Scope::System, &self.system);
        let transient = Place::of(Scope::Transient, &self.transient);
        let allowlisted_system = Place::of(Scope::AllowlistedSystem, &self.allowlisted_system);
        let allowlisted_transient =
            Place::of(Scope::AllowlistedTransient, &self.allowlisted_transient);
        let peer = Place::of(Scope::Peer, &self.peer);
        let class = Place::of(Scope::Class, &self.class_default);
        let class_peer = Place::of(Scope::ClassPeer, &self.class_peer_default);
        let connection = Place::of(Scope::Connection, &self.connection);
        let stream = Place::of(Scope::Stream, &self.stream);
        [
            (system, vec![]),
            (transient, vec![vec![system]]),
            (allowlisted_system, vec![]),
            (allowlisted_transient, vec![vec![allowlisted_system]]),
            (peer, vec![vec![system]]),
            (class, vec![vec![system]]),
            (class_peer, vec![vec![class, system], vec![peer, system]]),
            (connection, vec![vec![peer, system], vec![transient, system]]),
            (stream, vec![vec![connection, peer, system], vec![connection, transient, system]]),
        ]
        .into_iter()
    }

    /// Each scope that has a name, and what is above it.
    fn named(&self) -> impl Iterator<Item = (Place<'_>, Lines<'_>)> {
        let system = Place::of(Scope::System, &self.system);
        let peer = Place::of(Scope::Peer, &self.peer);
        let peers = self.peers.iter().map(move |(name, limits)| {
            (Place::named(Scope::Peer, name.as_bytes(), limits), vec![vec![system]])
        });
        let classes = self.classes.iter().map(move |(name, limits)| {
            (Place::named(Scope::Class, name.as_bytes(), limits), vec![vec![system]])
        });
        let class_peers = self.class_peers.iter().map(move |(name, limits)| {
            let class = match self.classes.get(name) {
                Some(limits) => Place::named(Scope::Class, name.as_bytes(), limits),
                None => Place::of(Scope::Class, &self.class_default),
            };
            let child = Place::named(Scope::ClassPeer, name.as_bytes(), limits);
            (child, vec![vec![class, system], vec![peer, system]])
        });
        peers.chain(classes).chain(class_peers)
    }
}

/// The scopes above a scope, each line from the nearest up.
type Lines<'a> = Vec<Vec<Place<'a>>>;

/// A scope with its limits.
#[derive(Clone, Copy)]
struct Place<'a> {
    scope: Scope,
    name: Option<&'a [u8]>,
    limits: &'a ScopeLimits,
}

impl<'a> Place<'a> {
    fn of(scope: Scope, limits: &'a ScopeLimits) -> Self {
        Self { scope, name: None, limits }
    }

    fn named(scope: Scope, name: &'a [u8], limits: &'a ScopeLimits) -> Self {
        Self { scope, name: Some(name), limits }
    }

    /// Inbound and outbound against both together.
    fn totals(self) -> impl Iterator<Item = LimitWarning> + use<'a> {
        Resource::ALL.into_iter().filter_map(move |resource| {
            let total = total(resource)?;
            self.against(resource, self, total)
        })
    }

    /// Each resource against the nearest scope above that limits it.
    fn above(self, line: Vec<Place<'a>>) -> impl Iterator<Item = LimitWarning> + use<'a> {
        Resource::ALL.into_iter().filter_map(move |resource| {
            let limited = line.iter().find_map(|parent| {
                let mut limiting = [Some(resource), total(resource)].into_iter().flatten();
                let limiting = limiting.find(|it| parent.limits.of(*it) != Limit::Unlimited)?;
                Some((*parent, limiting))
            });
            let (parent, parent_resource) = limited?;
            self.against(resource, parent, parent_resource)
        })
    }

    /// The warning, if the limit is above the parent's.
    fn against(
        self,
        resource: Resource,
        parent: Place<'_>,
        parent_resource: Resource,
    ) -> Option<LimitWarning> {
        let (limit, parent_limit) = (self.limits.of(resource), parent.limits.of(parent_resource));
        let above = match (limit, parent_limit) {
            (Limit::Max(max), Limit::Max(parent)) => max > parent,
            (Limit::Max(max), Limit::Blocked) => max > 0 && self.name.is_some(),
            _ => false,
        };
        above.then(|| LimitWarning {
            scope: self.scope,
            name: self.name.map(escaped),
            resource,
            limit,
            parent_scope: parent.scope,
            parent_name: parent.name.map(escaped),
            parent_resource,
            parent_limit,
        })
    }
}

/// What a resource is a part of.
fn total(resource: Resource) -> Option<Resource> {
    match resource {
        Resource::ConnectionsInbound | Resource::ConnectionsOutbound => Some(Resource::Connections),
        Resource::StreamsInbound | Resource::StreamsOutbound => Some(Resource::Streams),
        _ => None,
    }
}

/// Each prefix length against the next shorter one that limits connections.
fn longer_above_shorter(family: &str, lengths: &BTreeMap<u8, PrefixLimits>) -> Vec<LimitWarning> {
    let name = |length: u8| Some(format!("{family} /{length}").into_boxed_str());
    let mut warnings = Vec::new();
    let mut shorter: Option<(u8, Limit)> = None;
    for (&length, limits) in lengths {
        let limit = limits.connections;
        if let (Some((parent, Limit::Max(most))), Limit::Max(max)) = (shorter, limit)
            && max > most
        {
            warnings.push(LimitWarning {
                scope: Scope::Subnet,
                name: name(length),
                resource: Resource::ConnectionsInbound,
                limit,
                parent_scope: Scope::Subnet,
                parent_name: name(parent),
                parent_resource: Resource::ConnectionsInbound,
                parent_limit: Limit::Max(most),
            });
        }
        if limit != Limit::Unlimited {
            shorter = Some((length, limit));
        }
    }
    warnings
}

/// A name that does no harm in a log.
fn escaped(name: &[u8]) -> Box<str> {
    name.escape_ascii().to_string().into()
}

/// A limit that is never reached, because one above it is lower: from [`Limits::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitWarning {
    scope: Scope,
    name: Option<Box<str>>,
    resource: Resource,
    limit: Limit,
    parent_scope: Scope,
    parent_name: Option<Box<str>>,
    parent_resource: Resource,
    parent_limit: Limit,
}

impl LimitWarning {
    /// The scope whose limit is never reached.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The peer or class, escaped, or the prefix length, such as `IPv6 /56`; `None` for a default.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it limits.
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// The limit that is never reached.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The scope whose limit is reached first; the same scope, where inbound or outbound are above
    /// both together.
    pub fn parent_scope(&self) -> Scope {
        self.parent_scope
    }

    /// Like [`name`](Self::name), of the scope whose limit is reached first.
    pub fn parent_name(&self) -> Option<&str> {
        self.parent_name.as_deref()
    }

    /// What that scope limits: the same, or inbound and outbound together.
    pub fn parent_resource(&self) -> Resource {
        self.parent_resource
    }

    /// The limit that is reached first.
    pub fn parent_limit(&self) -> Limit {
        self.parent_limit
    }
}

impl fmt::Display for LimitWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let child = Named { scope: self.scope, name: self.name() };
        let parent = Named { scope: self.parent_scope, name: self.parent_name() };
        let (limit, unit) = (self.limit, Unit(self.resource));
        write!(f, "the {child} limit of {limit} {unit} is never reached: the {parent} limit ")?;
        match self.parent_limit {
            Limit::Blocked => write!(f, "blocks all {}", Unit(self.parent_resource)),
            limit => write!(f, "is {limit} {}", Unit(self.parent_resource)),
        }
    }
}

/// A scope and which one of its kind.
struct Named<'a> {
    scope: Scope,
    name: Option<&'a str>,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.scope, self.name) {
            (Scope::Subnet, Some(prefix)) => f.write_str(prefix),
            (scope, Some(name)) => write!(f, "{scope} \"{name}\""),
            (scope, None) => scope.fmt(f),
        }
    }
}
