//! Limits as a file: everything that [`read`](super::read) needs to make them again.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Serialize, Serializer};

use super::super::{AllowRule, Limits, Observe, PrefixLimits, ScopeLimits};
use super::names::format_peer;
use super::shape::{OBSERVED, RESOURCES, SCOPE_SECTIONS, SCOPES, limit_mut, scopes};
use super::tree::{Entry, Node, Value};
use super::{rate, size};
use crate::error::Resource;
use crate::limit::Limit;

/// Each value as [`LimitsFile`](crate::LimitsFile) describes it, in formats that describe
/// themselves.
impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, format: S) -> Result<S::Ok, S::Error> {
        tree(self).serialize(format)
    }
}

/// The complete limits. Values stand before tables, as TOML needs it.
fn tree(limits: &Limits) -> Value {
    let mut top = vec![entry("observe", observe(limits.observe))];
    for (name, scope) in SCOPE_SECTIONS.into_iter().zip(scopes(limits)) {
        top.push(entry(name, whole_scope(scope)));
    }

    let peers = limits.peers.iter().map(|(peer, scope)| (format_peer(peer), scope));
    let peers = peers.map(|(peer, scope)| entry(peer, difference(scope, &limits.peer)));
    top.extend(section("peers", peers.collect()));
    let classes = differences(&limits.classes, &limits.class_default);
    top.extend(section("classes", classes));
    let class_peers = differences(&limits.class_peers, &limits.class_peer_default);
    top.extend(section("class_peers", class_peers));

    let subnets = &limits.subnets;
    // Bits behind a prefix mean nothing, and a file may not have them.
    let networks: BTreeMap<_, _> =
        subnets.networks.iter().map(|(network, limits)| (network.trunc(), *limits)).collect();
    let kinds = [
        ("ipv4", prefixes(&subnets.ipv4)),
        ("ipv6", prefixes(&subnets.ipv6)),
        ("networks", prefixes(&networks)),
    ];
    let kinds = kinds.into_iter().flat_map(|(name, entries)| section(name, entries));
    top.extend(section("subnets", kinds.collect()));

    let rules: Vec<_> = limits.allow.rules().iter().map(rule).collect();
    if !rules.is_empty() {
        top.push(entry("allow", Value::List(rules)));
    }
    Value::Table(top)
}

fn entry(key: impl Into<String>, value: Value) -> Entry {
    Entry { key: key.into(), at: None, value }
}

/// A table, if there is anything in it.
fn section(name: &str, entries: Vec<Entry>) -> Option<Entry> {
    (!entries.is_empty()).then(|| entry(name, Value::Table(entries)))
}

fn observe(observe: Observe) -> Value {
    if observe == Observe::everything() {
        return Value::Text("everything".into());
    }
    let named = OBSERVED.into_iter().zip(SCOPES).filter(|(scope, _)| observe.contains(*scope));
    let texts = named.map(|(_, name)| Value::Text(name.into()));
    Value::List(texts.map(|value| Node { at: None, value }).collect())
}

fn values(scope: &ScopeLimits) -> [Limit; Resource::ALL.len()] {
    let mut scope = *scope;
    Resource::ALL.map(|resource| *limit_mut(&mut scope, resource))
}

fn whole_scope(scope: &ScopeLimits) -> Value {
    let rows = RESOURCES.into_iter().zip(Resource::ALL).zip(values(scope));
    let entries = rows.map(|((name, resource), value)| entry(name, limit(resource, value)));
    Value::Table(entries.collect())
}

/// What has to be changed of some limits to make others.
fn difference(scope: &ScopeLimits, from: &ScopeLimits) -> Value {
    let rows = RESOURCES.into_iter().zip(Resource::ALL).zip(values(scope)).zip(values(from));
    let changed = rows.filter(|((_, value), from)| value != from);
    let entries = changed.map(|(((name, resource), value), _)| entry(name, limit(resource, value)));
    Value::Table(entries.collect())
}

fn differences(scopes: &BTreeMap<Box<str>, ScopeLimits>, from: &ScopeLimits) -> Vec<Entry> {
    scopes.iter().map(|(name, scope)| entry(&**name, difference(scope, from))).collect()
}

fn prefixes<K: Display>(limits: &BTreeMap<K, PrefixLimits>) -> Vec<Entry> {
    limits.iter().map(|(key, limits)| entry(key.to_string(), prefix(limits))).collect()
}

fn prefix(limits: &PrefixLimits) -> Value {
    let mut entries = vec![entry("connections", limit(Resource::Connections, limits.connections))];
    match limits.rate {
        None => entries.push(entry("rate", Value::Text("unlimited".into()))),
        Some(rate) => {
            entries.push(entry("rate", Value::Text(rate::format(rate.interval()))));
            entries.push(entry("burst", Value::Integer(rate.burst().get().into())));
        }
    }
    Value::Table(entries)
}

fn rule(rule: &AllowRule) -> Node {
    let network = rule.network().map(|network| entry("network", Value::Text(network.to_string())));
    let peer = rule.peer().map(|peer| entry("peer", Value::Text(format_peer(peer))));
    Node { at: None, value: Value::Table(network.into_iter().chain(peer).collect()) }
}

fn limit(resource: Resource, limit: Limit) -> Value {
    match limit {
        Limit::Max(bytes) if resource == Resource::Memory => match size::format(bytes) {
            Some(size) => Value::Text(size),
            None if i64::try_from(bytes).is_err() => Value::Text(format!("{bytes} B")),
            None => Value::Integer(bytes.into()),
        },
        // More than the integers of TOML hold.
        Limit::Max(count) if i64::try_from(count).is_err() => Value::Text(count.to_string()),
        Limit::Max(count) => Value::Integer(count.into()),
        word => Value::Text(word.to_string()),
    }
}
