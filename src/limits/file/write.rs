//! Limits as a file: everything that [`read`](super::read) needs to make them again.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Serialize, Serializer};

use super::super::{AllowRule, Limits, Observe, PrefixLimits, ScopeLimits, rate};
use super::names::format_peer;
use super::shape::{RESOURCES, SCOPE_SECTIONS, SCOPES, scopes};
use super::size;
use super::tree::{Entry, Node, Value};
use crate::error::{Resource, Scope};
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
    for (name, scope) in SCOPE_SECTIONS.iter().zip(scopes(limits)) {
        top.push(entry(*name, limits_of(scope, |_| true)));
    }

    let peers = differences(&limits.peers, format_peer, &limits.peer);
    let classes = differences(&limits.classes, ToString::to_string, &limits.class_default);
    let default = &limits.class_peer_default;
    let class_peers = differences(&limits.class_peers, ToString::to_string, default);
    let subnets = &limits.subnets;
    // Bits behind a prefix mean nothing, and a file may not have them.
    let networks: BTreeMap<_, _> =
        subnets.networks.iter().map(|(network, limits)| (network.trunc(), *limits)).collect();
    let subnets = sections([
        ("ipv4", prefixes(&subnets.ipv4)),
        ("ipv6", prefixes(&subnets.ipv6)),
        ("networks", prefixes(&networks)),
    ]);
    top.extend(sections([
        ("peers", peers),
        ("classes", classes),
        ("class_peers", class_peers),
        ("subnets", subnets),
    ]));

    let rules: Vec<_> = limits.allow.rules().iter().map(rule).collect();
    if !rules.is_empty() {
        top.push(entry("allow", Value::List(rules)));
    }
    Value::Table(top)
}

fn entry(key: impl Into<String>, value: Value) -> Entry {
    Entry { key: key.into(), at: None, value }
}

/// Those tables that have anything in them.
fn sections<const N: usize>(all: [(&str, Vec<Entry>); N]) -> Vec<Entry> {
    let some = all.into_iter().filter(|(_, entries)| !entries.is_empty());
    some.map(|(name, entries)| entry(name, Value::Table(entries))).collect()
}

fn observe(observe: Observe) -> Value {
    if observe == Observe::everything() {
        return Value::Text("everything".into());
    }
    let named = Scope::ALL.into_iter().zip(SCOPES).filter(|(scope, _)| observe.contains(*scope));
    let texts = named.map(|(_, name)| Value::Text(name.into()));
    Value::List(texts.map(|value| Node { at: None, value }).collect())
}

/// Those of a scope's limits that have to be written.
fn limits_of(scope: &ScopeLimits, written: impl Fn(Resource) -> bool) -> Value {
    let rows = RESOURCES.into_iter().zip(Resource::ALL).filter(|(_, resource)| written(*resource));
    let entries = rows.map(|(name, resource)| entry(name, limit(resource, scope.of(resource))));
    Value::Table(entries.collect())
}

/// What has to be changed of some limits to make each of others.
fn differences<K>(
    scopes: &BTreeMap<K, ScopeLimits>,
    name: impl Fn(&K) -> String,
    from: &ScopeLimits,
) -> Vec<Entry> {
    let difference =
        |scope: &ScopeLimits| limits_of(scope, |resource| scope.of(resource) != from.of(resource));
    scopes.iter().map(|(key, scope)| entry(name(key), difference(scope))).collect()
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
            entries.push(entry("burst", Value::Integer(rate.burst_size().get().into())));
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
        Limit::Max(bytes) if resource.is_bytes() => match size::format(bytes) {
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
