//! From values to what they change, collecting all that is wrong on the way.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::{AllowList, AllowRule, NodeType, Observe, Rate};
use super::guess::{meant_limit, nearest};
use super::names::{format_peer, parse_class, parse_length, parse_network, parse_peer};
use super::patch::{Patch, PrefixPatch, ScopePatch};
use super::path::Path;
use super::problem::{ProblemKind, Problems};
use super::shape::{NODE_TYPES, PREFIX, RESOURCES, RULE, SCOPE_SECTIONS, SCOPES, SUBNETS, TOP};
use super::tree::{Entry, Node, Value};
use super::{LimitsFile, size};
use crate::error::{ConfigError, Resource, Scope};
use crate::limit::Limit;
use crate::name::PeerKey;

const SIZE_LIMIT: &str =
    "a size such as \"64 MiB\", a whole number of bytes, \"unlimited\" or \"blocked\"";
const COUNT_LIMIT: &str = "a whole number, \"unlimited\" or \"blocked\"";

/// Reads a whole file. What it returns is of use only if no problems were added.
pub(super) fn read(value: &Value, problems: &mut Problems) -> LimitsFile {
    let mut reader = Reader { problems, path: Path::default(), set: BTreeSet::new() };
    let mut file = reader.file(value);
    file.set = reader.set;
    file
}

struct Reader<'p> {
    problems: &'p mut Problems,
    /// Where it is.
    path: Path,
    /// The paths of all values so far.
    set: BTreeSet<String>,
}

impl Reader<'_> {
    fn file(&mut self, value: &Value) -> LimitsFile {
        let mut file = LimitsFile::default();
        let has_node_type = value.entry("node_type").is_some();
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "node_type" => file.node_type = reader.node_type(&entry.value),
            "budget" => file.budget = reader.host_value(&entry.value, true, has_node_type),
            "fds" => file.fds = reader.host_value(&entry.value, false, has_node_type),
            "observe" => file.patch.observe = reader.observe(&entry.value),
            "peers" => file.patch.peers = reader.peers(&entry.value),
            "classes" => file.patch.classes = reader.classes(&entry.value),
            "class_peers" => file.patch.class_peers = reader.classes(&entry.value),
            "subnets" => reader.subnets(&entry.value, &mut file.patch),
            "allow" => file.patch.allow = reader.allow(&entry.value),
            key => match SCOPE_SECTIONS.iter().position(|section| *section == key) {
                Some(scope) => file.patch.scopes[scope] = reader.scope(&entry.value),
                None => reader.unknown_key(TOP),
            },
        });
        file
    }

    /// Visits the entries of a table, each with the path at it. Those given twice are problems.
    fn entries(&mut self, value: &Value, mut visit: impl FnMut(&mut Self, &Entry)) {
        let Value::Table(entries) = value else {
            return self.problem(wrong_type("a table", value));
        };
        let mut seen = BTreeSet::new();
        for entry in entries {
            self.path.enter_key(&entry.key, entry.at);
            if seen.insert(entry.key.as_str()) {
                visit(self, entry);
            } else {
                self.problem(ProblemKind::Duplicate { first: None });
            }
            self.path.leave();
        }
    }

    /// Visits the elements of a list, each with the path at it.
    fn elements(&mut self, nodes: &[Node], mut visit: impl FnMut(&mut Self, &Value)) {
        for (index, node) in nodes.iter().enumerate() {
            self.path.enter_element(index, node.at);
            visit(self, &node.value);
            self.path.leave();
        }
    }

    /// Reads a table whose keys are names of something, which may be spelled in several ways.
    fn named<K: Ord, V>(
        &mut self,
        value: &Value,
        parse: impl Fn(&str) -> Result<K, ProblemKind>,
        format: impl Fn(&K) -> String,
        mut read: impl FnMut(&mut Self, &Value) -> V,
    ) -> BTreeMap<K, V> {
        let mut all = BTreeMap::new();
        let mut spelled = BTreeMap::new();
        self.entries(value, |reader, entry| {
            let here = reader.path.to_string();
            let key = parse(&entry.key).and_then(|key| {
                let canonical = format(&key);
                reader.path.spell_last(canonical.clone());
                match spelled.entry(canonical) {
                    Place::Occupied(first) => {
                        Err(ProblemKind::Duplicate { first: Some(String::clone(first.get())) })
                    }
                    Place::Vacant(place) => {
                        place.insert(here);
                        Ok(key)
                    }
                }
            });
            let key = reader.found(key);
            // Whatever is wrong below a wrong name is wrong all the same.
            let section = read(reader, &entry.value);
            if let Some(key) = key {
                all.insert(key, section);
            }
        });
        all
    }

    fn peers(&mut self, value: &Value) -> BTreeMap<PeerKey, ScopePatch> {
        self.named(value, parse_peer, format_peer, Self::scope)
    }

    fn classes(&mut self, value: &Value) -> BTreeMap<Box<str>, ScopePatch> {
        self.named(value, parse_class, ToString::to_string, Self::scope)
    }

    fn scope(&mut self, value: &Value) -> ScopePatch {
        let mut patch = ScopePatch::default();
        self.entries(value, |reader, entry| {
            match RESOURCES.iter().position(|resource| *resource == entry.key) {
                Some(resource) => {
                    let resource = Resource::ALL[resource];
                    if let Some(limit) = reader.limit(resource, &entry.value) {
                        patch.set(resource, limit);
                    }
                }
                None => reader.unknown_key(&RESOURCES),
            }
        });
        patch
    }

    fn subnets(&mut self, value: &Value, patch: &mut Patch) {
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "ipv4" => patch.ipv4 = reader.prefixes(&entry.value, 32),
            "ipv6" => patch.ipv6 = reader.prefixes(&entry.value, 128),
            "networks" => {
                let value = &entry.value;
                patch.networks =
                    reader.named(value, parse_network, ToString::to_string, Self::prefix);
            }
            _ => reader.unknown_key(SUBNETS),
        });
    }

    fn prefixes(&mut self, value: &Value, most: u8) -> BTreeMap<u8, PrefixPatch> {
        self.named(value, |key| parse_length(key, most), ToString::to_string, Self::prefix)
    }

    fn prefix(&mut self, value: &Value) -> PrefixPatch {
        let mut patch = PrefixPatch::default();
        let (mut interval, mut burst) = (None, None);
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "connections" => {
                patch.connections = reader.limit(Resource::Connections, &entry.value);
            }
            "rate" => interval = reader.interval(&entry.value),
            "burst" => burst = reader.burst(&entry.value),
            _ => reader.unknown_key(PREFIX),
        });
        // Whether a rate that is wrong needs a burst is not known.
        match (value.entry("rate"), value.entry("burst")) {
            (Some(rate), None) if matches!(interval, Some(Some(_))) => {
                self.problem_at(rate, ProblemKind::RateWithoutBurst);
            }
            (rate, Some(burst)) if rate.is_none() || interval == Some(None) => {
                self.problem_at(burst, ProblemKind::BurstWithoutRate);
            }
            _ => patch.rate = interval.map(|interval| Some(Rate::new(interval?, burst?))),
        }
        patch
    }

    /// The interval of a rate, `Some(None)` if it is unlimited.
    fn interval(&mut self, value: &Value) -> Option<Option<Duration>> {
        let expected = "a rate such as \"12/m\", or \"unlimited\"";
        self.found(in_text(value, expected, |text| match text {
            "unlimited" => Ok(None),
            "blocked" => Err(ProblemKind::NoRate { text: text.to_owned() }),
            _ => match text.parse::<Rate>() {
                Ok(rate) => Ok(Some(rate.interval())),
                Err(error) => Err(no_rate(text.to_owned(), error)),
            },
        }))
    }

    fn burst(&mut self, value: &Value) -> Option<NonZeroU32> {
        const MOST: i128 = u32::MAX as i128;
        let burst = match value {
            Value::Integer(0) => Err(ProblemKind::ZeroBurst),
            Value::Integer(number @ 1..=MOST) => {
                let number = u32::try_from(*number).ok().and_then(NonZeroU32::new);
                Ok(number.expect("it is in the range of the pattern"))
            }
            Value::Integer(1..) => Err(ProblemKind::NumberTooLarge { most: u32::MAX.into() }),
            _ => Err(wrong_type("a whole number from 1", value)),
        };
        self.found(burst)
    }

    fn limit(&mut self, resource: Resource, value: &Value) -> Option<Limit> {
        let is_size = resource.is_bytes();
        let expected = if is_size { SIZE_LIMIT } else { COUNT_LIMIT };
        let limit = match value {
            Value::Integer(number) => number_of(*number).map(Limit::Max),
            Value::Text(text) => match text.as_str() {
                "unlimited" => Ok(Limit::Unlimited),
                "blocked" => Ok(Limit::Blocked),
                _ => number_in_text(text, is_size, expected).map(Limit::Max),
            },
            _ => Err(wrong_type(expected, value)),
        };
        self.found(limit)
    }

    /// What a node type is told of the host, a size or a count.
    fn host_value(&mut self, value: &Value, is_size: bool, has_node_type: bool) -> Option<u64> {
        let expected = if is_size {
            "a size such as \"4 GiB\", or a whole number of bytes"
        } else {
            "a whole number"
        };
        let number = match value {
            Value::Integer(number @ 0..) => number_of(*number),
            Value::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                number_in_text(text, is_size, expected)
            }
            _ => Err(wrong_type(expected, value)),
        };
        let number = self.found(number);
        if !has_node_type {
            self.problem(ProblemKind::NeedsNodeType);
        }
        number
    }

    fn node_type(&mut self, value: &Value) -> Option<NodeType> {
        let expected = "the name of a node type, such as \"full\"";
        let index = in_text(value, expected, |name| index_of(name, &NODE_TYPES));
        self.found(index.map(|index| NodeType::ALL[index]))
    }

    fn observe(&mut self, value: &Value) -> Option<Observe> {
        let mut observe = Observe::none();
        match value {
            Value::Text(text) if text == "everything" => observe = Observe::everything(),
            Value::List(nodes) => self.elements(nodes, |reader, value| {
                let expected = "the name of a scope, such as \"peer\"";
                match in_text(value, expected, |name| index_of(name, &SCOPES)) {
                    Ok(index) => observe = observe.scope(Scope::ALL[index]),
                    Err(problem) => reader.problem(problem),
                }
            }),
            _ => return self.found(Err(wrong_type("a list of scopes, or \"everything\"", value))),
        }
        self.found(Ok(observe))
    }

    fn allow(&mut self, value: &Value) -> Option<AllowList> {
        let Value::List(nodes) = value else {
            return self.found(Err(wrong_type("a list of rules: [[allow]]", value)));
        };
        let mut rules = Vec::new();
        self.elements(nodes, |reader, value| rules.extend(reader.rule(value)));
        self.found(Ok(AllowList::of(rules)))
    }

    fn rule(&mut self, value: &Value) -> Option<AllowRule> {
        let (mut network, mut peer) = (None, None);
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "network" => {
                let expected = "a network such as \"192.0.2.0/24\"";
                network = reader.found(in_text(&entry.value, expected, parse_network));
            }
            "peer" => {
                let expected = "the key of a peer as text";
                peer = reader.found(in_text(&entry.value, expected, parse_peer));
            }
            _ => reader.unknown_key(RULE),
        });
        let names_none = RULE.iter().all(|key| value.entry(key).is_none());
        if names_none && matches!(value, Value::Table(_)) {
            self.problem(ProblemKind::EmptyRule);
        }
        (network.is_some() || peer.is_some()).then(|| AllowRule::new(network, peer))
    }

    /// What the path leads to, which the file sets, or what is wrong with it.
    fn found<T>(&mut self, value: Result<T, ProblemKind>) -> Option<T> {
        match value {
            Ok(value) => {
                self.set.insert(self.path.canonical());
                Some(value)
            }
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    fn problem(&mut self, kind: ProblemKind) {
        self.problems.add(&self.path, self.path.at(), kind);
    }

    /// A problem with an entry of the table that the path leads to.
    fn problem_at(&mut self, entry: &Entry, kind: ProblemKind) {
        self.path.enter_key(&entry.key, entry.at);
        self.problem(kind);
        self.path.leave();
    }

    /// The last key of the path is none of those known there.
    fn unknown_key(&mut self, known: &'static [&'static str]) {
        let key = self.path.last_key().to_owned();
        let nearest = nearest(&key, known);
        self.problem(ProblemKind::UnknownKey { key, nearest, known });
    }
}

/// What a text says.
fn in_text<T>(
    value: &Value,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, ProblemKind>,
) -> Result<T, ProblemKind> {
    match value {
        Value::Text(text) => parse(text),
        _ => Err(wrong_type(expected, value)),
    }
}

/// Which of the known names it is.
fn index_of(name: &str, known: &'static [&'static str]) -> Result<usize, ProblemKind> {
    known.iter().position(|known| *known == name).ok_or_else(|| {
        let nearest = nearest(name, known);
        ProblemKind::UnknownName { name: name.to_owned(), nearest, known }
    })
}

fn wrong_type(expected: &'static str, value: &Value) -> ProblemKind {
    ProblemKind::WrongType { expected, found: value.describe() }
}

fn no_rate(text: String, error: ConfigError) -> ProblemKind {
    match error {
        ConfigError::NoRate => ProblemKind::NoRate { text },
        ConfigError::RateOutOfRange => ProblemKind::RateOutOfRange { text },
        _ => ProblemKind::NotARate { text },
    }
}

fn number_of(number: i128) -> Result<u64, ProblemKind> {
    u64::try_from(number).map_err(|_| match number {
        ..0 => ProblemKind::Negative { text: number.to_string() },
        _ => ProblemKind::NumberTooLarge { most: u64::MAX },
    })
}

/// A number written as text: a size, or a count of more than the integers of TOML hold.
fn number_in_text(text: &str, is_size: bool, expected: &'static str) -> Result<u64, ProblemKind> {
    match text.as_bytes() {
        [b'0'..=b'9', ..] if is_size => size::parse(text),
        [b'0'..=b'9', more @ ..] if more.iter().all(u8::is_ascii_digit) => {
            text.parse().map_err(|_| ProblemKind::NumberTooLarge { most: u64::MAX })
        }
        [b'0'..=b'9', ..] if size::parse(text).is_ok() => {
            Err(ProblemKind::SizeForCount { text: text.to_owned() })
        }
        [b'-', b'0'..=b'9', ..] => Err(ProblemKind::Negative { text: format!("{text:?}") }),
        _ if text.eq_ignore_ascii_case("default") => Err(ProblemKind::DefaultWord),
        _ => {
            let (text, meant) = (text.to_owned(), meant_limit(text));
            Err(ProblemKind::NotALimit { text, meant, expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In JSON, where no position puts them into it.
    #[test]
    fn problems_are_found_in_the_order_of_the_file() {
        let text = r#"{"budget": 1, "system": {"fds": -1}, "fds": "?", "xyzzy": 1}"#;
        let error = LimitsFile::from_json(text).unwrap_err();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path()).collect();
        assert_eq!(paths, ["budget", "system.fds", "fds", "fds", "xyzzy"]);
    }
}
