//! What the sections and keys of a limits file are called, and what they stand for.

use super::super::{Limits, NodeType, ScopeLimits};
use crate::error::{Resource, Scope};
use crate::limit::Limit;

/// Every key of a file outside its sections, and every section.
pub(super) const TOP: [&str; 18] = [
    "node_type",
    "budget",
    "fds",
    "observe",
    "system",
    "transient",
    "allowlisted_system",
    "allowlisted_transient",
    "peer",
    "connection",
    "stream",
    "class_default",
    "class_peer_default",
    "peers",
    "classes",
    "class_peers",
    "subnets",
    "allow",
];

/// The sections that are the limits of one scope, in the order of [`scopes`].
pub(super) const SCOPE_SECTIONS: [&str; 9] = [
    "system",
    "transient",
    "allowlisted_system",
    "allowlisted_transient",
    "peer",
    "connection",
    "stream",
    "class_default",
    "class_peer_default",
];

/// The keys in such a section, in the order of [`Resource`].
pub(super) const RESOURCES: [&str; 8] = [
    "memory",
    "connections",
    "connections_inbound",
    "connections_outbound",
    "streams",
    "streams_inbound",
    "streams_outbound",
    "fds",
];

/// The sections in `subnets`.
pub(super) const SUBNETS: [&str; 3] = ["ipv4", "ipv6", "networks"];

/// The keys of one prefix or network.
pub(super) const PREFIX: [&str; 3] = ["connections", "rate", "burst"];

/// The keys of one rule of the allow list.
pub(super) const RULE: [&str; 2] = ["network", "peer"];

/// What `observe` can list, in the order of [`OBSERVED`].
pub(super) const SCOPES: [&str; 10] = [
    "system",
    "transient",
    "allowlisted_system",
    "allowlisted_transient",
    "subnet",
    "peer",
    "class",
    "class_peer",
    "connection",
    "stream",
];

/// The scopes that can observe: all but the arena, which has no choice of its own.
pub(super) const OBSERVED: [Scope; 10] = [
    Scope::System,
    Scope::Transient,
    Scope::AllowlistedSystem,
    Scope::AllowlistedTransient,
    Scope::Subnet,
    Scope::Peer,
    Scope::Class,
    Scope::ClassPeer,
    Scope::Connection,
    Scope::Stream,
];

/// What `node_type` can be, in the order of [`NodeType::ALL`].
pub(super) const NODE_TYPES: [&str; NodeType::ALL.len()] =
    ["light", "full", "relay", "bootstrap", "validator", "gateway"];

/// The limits that the [`SCOPE_SECTIONS`] stand for.
pub(super) fn scopes(limits: &Limits) -> [&ScopeLimits; 9] {
    [
        &limits.system,
        &limits.transient,
        &limits.allowlisted_system,
        &limits.allowlisted_transient,
        &limits.peer,
        &limits.connection,
        &limits.stream,
        &limits.class_default,
        &limits.class_peer_default,
    ]
}

/// The same, to be changed.
pub(super) fn scopes_mut(limits: &mut Limits) -> [&mut ScopeLimits; 9] {
    // Names every field, so that a new one cannot be forgotten.
    let Limits {
        system,
        transient,
        allowlisted_system,
        allowlisted_transient,
        peer,
        peers: _,
        connection,
        stream,
        class_default,
        classes: _,
        class_peer_default,
        class_peers: _,
        subnets: _,
        allow: _,
        observe: _,
    } = limits;
    [
        system,
        transient,
        allowlisted_system,
        allowlisted_transient,
        peer,
        connection,
        stream,
        class_default,
        class_peer_default,
    ]
}

/// The limit that one of the [`RESOURCES`] stands for.
pub(super) fn limit_mut(limits: &mut ScopeLimits, resource: Resource) -> &mut Limit {
    match resource {
        Resource::Memory => &mut limits.memory,
        Resource::Connections => &mut limits.connections,
        Resource::ConnectionsInbound => &mut limits.connections_inbound,
        Resource::ConnectionsOutbound => &mut limits.connections_outbound,
        Resource::Streams => &mut limits.streams,
        Resource::StreamsInbound => &mut limits.streams_inbound,
        Resource::StreamsOutbound => &mut limits.streams_outbound,
        Resource::Fds => &mut limits.fds,
    }
}

/// The known name that is most like a wrong one, if any is at all.
pub(super) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    /// How alike two names must be, from 0 to 1: `conns` and `connections` are, `foo` and `fds` not.
    const ALIKE: f64 = 0.8;
    /// No name that is known is nearly as long, and comparing takes time with the length.
    const LONGEST: usize = 64;

    if name.len() > LONGEST {
        return None;
    }
    let name = snake_case(name);
    let likeness = |known: &&'static str| strsim::jaro_winkler(&name, known);
    known
        .iter()
        .copied()
        .map(|known| (likeness(&known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// A name in the way the keys are written, from `ConnsInbound`, `connections-inbound` and the like.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = c.is_lowercase();
        snake.extend(c.to_lowercase());
    }
    snake.replace(['-', ' '], "_").replace("conns", "connections")
}

/// What was probably meant by a word in the place of a limit, by what other programs call it.
pub(super) fn meant_limit(word: &str) -> Option<&'static str> {
    const UNLIMITED: [&str; 7] = ["∞", "any", "inf", "infinite", "infinity", "max", "no limit"];
    const BLOCKED: [&str; 8] =
        ["block", "blockall", "block_all", "deny", "disabled", "forbidden", "nothing", "zero"];
    let lower = word.to_lowercase();
    if UNLIMITED.contains(&lower.as_str()) {
        Some("unlimited")
    } else if BLOCKED.contains(&lower.as_str()) {
        Some("blocked")
    } else {
        nearest(word, &["unlimited", "blocked"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_types_are_called_what_they_call_themselves() {
        let names: Vec<_> = NodeType::ALL.iter().map(NodeType::to_string).collect();
        assert_eq!(names, NODE_TYPES);
    }

    #[test]
    fn sections_and_keys_stand_for_different_fields() {
        let mut limits = Limits::unlimited();
        for (n, scope) in scopes_mut(&mut limits).into_iter().enumerate() {
            for (m, resource) in Resource::ALL.into_iter().enumerate() {
                *limit_mut(scope, resource) = Limit::Max((n * 8 + m) as u64);
            }
        }
        let numbers: Vec<_> = scopes(&limits)
            .into_iter()
            .flat_map(|scope| Resource::ALL.map(|resource| *limit_mut(&mut { *scope }, resource)))
            .collect();
        assert_eq!(numbers, (0..72).map(Limit::Max).collect::<Vec<_>>());
    }

    #[test]
    fn other_programs_names_are_near() {
        for (name, known) in [
            ("Conns", Some("connections")),
            ("ConnsInbound", Some("connections_inbound")),
            ("FD", Some("fds")),
            ("streams-outbound", Some("streams_outbound")),
            ("memry", Some("memory")),
            ("colour", None),
        ] {
            assert_eq!(nearest(name, &RESOURCES), known, "{name}");
        }
    }
}
