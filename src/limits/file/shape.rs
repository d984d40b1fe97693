//! What the sections and keys of a limits file are called, and what they stand for.

use super::super::{Limits, NodeType, ScopeLimits};
use crate::error::{Resource, Scope};
use crate::limit::Limit;

/// Writes everything that lists the sections which are the limits of one scope. They are called as
/// the fields of [`Limits`] are.
macro_rules! scope_sections {
    ($($scope:ident)+; besides $($other:ident)+) => {
        /// Every key of a file outside its sections, and every section.
        pub(super) const TOP: &[&str] = &[
            "node_type",
            "budget",
            "fds",
            "observe",
            $(stringify!($scope),)+
            "peers",
            "classes",
            "class_peers",
            "subnets",
            "allow",
        ];

        /// The sections that are the limits of one scope.
        pub(super) const SCOPE_SECTIONS: &[&str] = &[$(stringify!($scope)),+];

        /// The limits that the [`SCOPE_SECTIONS`] stand for.
        pub(super) fn scopes(limits: &Limits) -> [&ScopeLimits; SCOPE_SECTIONS.len()] {
            [$(&limits.$scope),+]
        }

        /// The same, to be changed.
        pub(super) fn scopes_mut(limits: &mut Limits) -> [&mut ScopeLimits; SCOPE_SECTIONS.len()] {
            // Names every field, so that a new one cannot be forgotten.
            let Limits { $($scope,)+ $($other: _),+ } = limits;
            [$($scope),+]
        }
    };
}

scope_sections! {
    system
    transient
    allowlisted_system
    allowlisted_transient
    peer
    connection
    stream
    class_default
    class_peer_default;
    besides peers classes class_peers subnets allow observe
}

/// The keys of one scope, in the order of [`Resource`].
pub(super) const RESOURCES: [&str; Resource::ALL.len()] = Resource::LABELS;

/// The sections in `subnets`.
pub(super) const SUBNETS: &[&str] = &["ipv4", "ipv6", "networks"];

/// The keys of one prefix or network.
pub(super) const PREFIX: &[&str] = &["connections", "rate", "burst"];

/// The keys of one rule of the allow list.
pub(super) const RULE: &[&str] = &["network", "peer"];

/// What `observe` can list, in the order of [`Scope`]: all but the arena at its end, which has no
/// choice of its own.
pub(super) const SCOPES: [&str; Scope::ALL.len() - 1] = *Scope::LABELS.first_chunk().unwrap();

/// What `node_type` can be, in the order of [`NodeType::ALL`].
pub(super) const NODE_TYPES: [&str; NodeType::ALL.len()] =
    ["light", "full", "relay", "bootstrap", "validator", "gateway"];

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
                *limit_mut(scope, resource) = Limit::Max((n * Resource::ALL.len() + m) as u64);
            }
        }
        let numbers: Vec<_> = scopes(&limits)
            .into_iter()
            .flat_map(|scope| Resource::ALL.map(|resource| scope.of(resource)))
            .collect();
        let all = (SCOPE_SECTIONS.len() * Resource::ALL.len()) as u64;
        assert_eq!(numbers, (0..all).map(Limit::Max).collect::<Vec<_>>());
    }
}
