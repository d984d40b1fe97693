//! What a file changes, section by section.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::{AllowList, Limits, Observe, PrefixLimits, Rate, ScopeLimits};
use super::shape::{SCOPE_SECTIONS, limit_mut, scopes_mut};
use crate::error::Resource;
use crate::limit::Limit;
use crate::name::PeerKey;

/// What a file changes of [`Limits`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Patch {
    /// In the order of [`SCOPE_SECTIONS`].
    pub(super) scopes: [ScopePatch; SCOPE_SECTIONS.len()],
    pub(super) peers: BTreeMap<PeerKey, ScopePatch>,
    pub(super) classes: BTreeMap<Box<str>, ScopePatch>,
    pub(super) class_peers: BTreeMap<Box<str>, ScopePatch>,
    pub(super) ipv4: BTreeMap<u8, PrefixPatch>,
    pub(super) ipv6: BTreeMap<u8, PrefixPatch>,
    pub(super) networks: BTreeMap<IpNet, PrefixPatch>,
    pub(super) allow: Option<AllowList>,
    pub(super) observe: Option<Observe>,
}

/// What a file changes of the limits of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ScopePatch([Option<Limit>; Resource::ALL.len()]);

/// What a file changes of the limits of one prefix or network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PrefixPatch {
    pub(super) connections: Option<Limit>,
    pub(super) rate: Option<Option<Rate>>,
}

impl Patch {
    pub(super) fn apply(&self, limits: &mut Limits) {
        for (scope, patch) in scopes_mut(limits).into_iter().zip(&self.scopes) {
            patch.apply(scope);
        }
        // After those in whose place they are.
        apply_each(&self.peers, &mut limits.peers, limits.peer, ScopePatch::apply);
        apply_each(&self.classes, &mut limits.classes, limits.class_default, ScopePatch::apply);
        let default = limits.class_peer_default;
        apply_each(&self.class_peers, &mut limits.class_peers, default, ScopePatch::apply);

        let unlimited = PrefixLimits::unlimited();
        let subnets = &mut limits.subnets;
        apply_each(&self.ipv4, &mut subnets.ipv4, unlimited, PrefixPatch::apply);
        apply_each(&self.ipv6, &mut subnets.ipv6, unlimited, PrefixPatch::apply);
        apply_each(&self.networks, &mut subnets.networks, unlimited, PrefixPatch::apply);

        if let Some(allow) = &self.allow {
            limits.allow = allow.clone();
        }
        if let Some(observe) = self.observe {
            limits.observe = observe;
        }
    }
}

/// Applies the patch of each key to the limits it has already, or else to those it would have.
fn apply_each<K: Clone + Ord, P, L: Copy>(
    patches: &BTreeMap<K, P>,
    limits: &mut BTreeMap<K, L>,
    otherwise: L,
    apply: impl Fn(&P, &mut L),
) {
    for (key, patch) in patches {
        apply(patch, limits.entry(key.clone()).or_insert(otherwise));
    }
}

impl ScopePatch {
    pub(super) fn set(&mut self, resource: Resource, limit: Limit) {
        self.0[resource as usize] = Some(limit);
    }

    fn apply(&self, limits: &mut ScopeLimits) {
        for (resource, limit) in Resource::ALL.into_iter().zip(self.0) {
            if let Some(limit) = limit {
                *limit_mut(limits, resource) = limit;
            }
        }
    }
}

impl PrefixPatch {
    fn apply(&self, limits: &mut PrefixLimits) {
        limits.connections = self.connections.unwrap_or(limits.connections);
        limits.rate = self.rate.unwrap_or(limits.rate);
    }
}
