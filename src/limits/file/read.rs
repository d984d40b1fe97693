//! From values to what they change, collecting all that is wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::super::{AllowList, NodeType, Observe, Rate};
use super::names::{format_peer, parse_network, parse_peer};
use super::patch::{PrefixPatch, ScopePatch};
use super::path::Path;
use super::problem::{ProblemKind, Problems};
use super::shape::{
    self, NODE_TYPES, OBSERVED, PREFIX, RESOURCES, RULE, SCOPE_SECTIONS, SCOPES, SUBNETS, TOP,
    nearest,
};
use super::tree::{Entry, Node, Value};
use super::{LimitsFile, rate, size};
use crate::error::{NameTooLong, Resource};
use crate::limit::Limit;
use crate::name::{MAX_NAME_BYTES, PeerKey};

const SIZE_LIMIT: &str =
    "a size such as \"64 MiB\", a whole number of bytes, \"unlimited\" or \"blocked\"";
const COUNT_LIMIT: &str = "a whole number, \"unlimited\" or \"blocked\"";
const TABLE: &str = "a table";

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
        let mut of_node_types = Vec::new();
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "node_type" => file.node_type = reader.node_type(&entry.value),
            key @ ("budget" | "fds") => {
                let number = reader.host_value(key, &entry.value);
                *(if key == "fds" { &mut file.fds } else { &mut file.budget }) = number;
                of_node_types.push((key.to_owned(), entry.at));
            }
            "observe" => file.patch.observe = reader.observe(&entry.value),
            "peers" => file.patch.peers = reader.peers(&entry.value),
            "classes" => file.patch.classes = reader.classes(&entry.value),
            "class_peers" => file.patch.class_peers = reader.classes(&entry.value),
            "subnets" => reader.subnets(&entry.value, &mut file),
            "allow" => file.patch.allow = reader.allow(&entry.value),
            key => match SCOPE_SECTIONS.iter().position(|section| *section == key) {
                Some(scope) => file.patch.scopes[scope] = reader.scope(&entry.value),
                None => reader.unknown_key(&TOP),
            },
        });
        let names_node_type =
            matches!(value, Value::Table(entries) if entries.iter().any(|e| e.key == "node_type"));
        if !names_node_type {
            for (key, at) in of_node_types {
                self.problems.add(key, at, ProblemKind::NeedsNodeType);
            }
        }
        file
    }

    /// Visits the entries of a table, each with the path at it. Those given twice are problems.
    fn entries(&mut self, value: &Value, mut visit: impl FnMut(&mut Self, &Entry)) {
        let Value::Table(entries) = value else {
            return self.wrong_type(TABLE, value);
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
        name: impl Fn(&str) -> Result<(K, String), ProblemKind>,
        mut read: impl FnMut(&mut Self, &Value) -> V,
    ) -> BTreeMap<K, V> {
        let mut all = BTreeMap::new();
        let mut spelled = BTreeMap::new();
        self.entries(value, |reader, entry| {
            let here = reader.path.to_string();
            let key = match name(&entry.key) {
                Ok((key, canonical)) => {
                    reader.path.spell_last(canonical.clone());
                    match spelled.get(&canonical) {
                        Some(first) => {
                            Err(ProblemKind::Duplicate { first: Some(String::clone(first)) })
                        }
                        None => {
                            spelled.insert(canonical, here);
                            Ok(key)
                        }
                    }
                }
                Err(problem) => Err(problem),
            };
            if let Err(problem) = &key {
                reader.problem(problem.clone());
            }
            // Whatever is wrong below a wrong name is wrong all the same.
            let section = read(reader, &entry.value);
            if let Ok(key) = key {
                reader.mark();
                all.insert(key, section);
            }
        });
        all
    }

    fn peers(&mut self, value: &Value) -> BTreeMap<PeerKey, ScopePatch> {
        let name = |key: &str| parse_peer(key).map(|peer| (peer.clone(), format_peer(&peer)));
        self.named(value, name, Self::scope)
    }

    fn classes(&mut self, value: &Value) -> BTreeMap<Box<str>, ScopePatch> {
        let name = |key: &str| match key.len() {
            0..=MAX_NAME_BYTES => Ok((key.into(), key.to_owned())),
            len => Err(ProblemKind::NameTooLong(NameTooLong { len })),
        };
        self.named(value, name, Self::scope)
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

    fn subnets(&mut self, value: &Value, file: &mut LimitsFile) {
        let patch = &mut file.patch;
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "ipv4" => patch.ipv4 = reader.prefixes(&entry.value, 32),
            "ipv6" => patch.ipv6 = reader.prefixes(&entry.value, 128),
            "networks" => {
                let name =
                    |key: &str| parse_network(key).map(|network| (network, network.to_string()));
                patch.networks = reader.named(&entry.value, name, Self::prefix);
            }
            _ => reader.unknown_key(&SUBNETS),
        });
    }

    fn prefixes(&mut self, value: &Value, most: u8) -> BTreeMap<u8, PrefixPatch> {
        let name = |key: &str| {
            let digits = key.strip_prefix('/').unwrap_or(key);
            match digits.parse::<u64>() {
                Ok(length) if length.to_string() != digits => Err(None),
                Ok(length) => match u8::try_from(length) {
                    Ok(short) if short <= most => Ok((short, length.to_string())),
                    _ => Err(Some(length)),
                },
                Err(_) => Err(None),
            }
            .map_err(|length| match length {
                Some(length) => ProblemKind::PrefixLength { length, most },
                None => ProblemKind::NotAPrefixLength { key: key.to_owned(), most },
            })
        };
        self.named(value, name, Self::prefix)
    }

    fn prefix(&mut self, value: &Value) -> PrefixPatch {
        let mut patch = PrefixPatch::default();
        // Where each is given, and what it is if it is right.
        let (mut rate, mut burst) = (None, None);
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "connections" => {
                patch.connections = reader.limit(Resource::Connections, &entry.value);
            }
            "rate" => rate = Some((entry.at, reader.rate(&entry.value))),
            "burst" => burst = Some((entry.at, reader.burst(&entry.value))),
            _ => reader.unknown_key(&PREFIX),
        });
        match (rate, burst) {
            (Some((_, Some(None))), None) => patch.rate = Some(None),
            (Some((_, Some(Some(interval)))), Some((_, Some(burst)))) => {
                patch.rate = Some(Some(Rate::new(interval, burst)));
            }
            (Some((at, Some(Some(_)))), None) => {
                self.problem_below("rate", at, ProblemKind::RateWithoutBurst);
            }
            (None | Some((_, Some(None))), Some((at, _))) => {
                self.problem_below("burst", at, ProblemKind::BurstWithoutRate);
            }
            // Neither is there, or a problem was found in one.
            _ => {}
        }
        patch
    }

    /// The interval of a rate, `Some(None)` if it is unlimited.
    fn rate(&mut self, value: &Value) -> Option<Option<Duration>> {
        let Value::Text(text) = value else {
            self.wrong_type("a rate such as \"12/m\", or \"unlimited\"", value);
            return None;
        };
        let interval = match text.as_str() {
            "unlimited" => Ok(None),
            "blocked" => Err(ProblemKind::NoRate { text: text.clone() }),
            _ => rate::parse(text).map(Some),
        };
        self.found(interval)
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
        let expected = if resource == Resource::Memory { SIZE_LIMIT } else { COUNT_LIMIT };
        let limit = match value {
            Value::Integer(number) => number_of(*number).map(Limit::Max),
            Value::Text(text) => match text.as_str() {
                "unlimited" => Ok(Limit::Unlimited),
                "blocked" => Ok(Limit::Blocked),
                _ => number_in_text(text, resource == Resource::Memory, expected).map(Limit::Max),
            },
            _ => Err(wrong_type(expected, value)),
        };
        self.found(limit)
    }

    /// What a node type is told of the host.
    fn host_value(&mut self, key: &str, value: &Value) -> Option<u64> {
        let (size, expected) = match key {
            "budget" => (true, "a size such as \"4 GiB\", or a whole number of bytes"),
            _ => (false, "a whole number"),
        };
        let number = match value {
            Value::Integer(number @ 0..) => number_of(*number),
            Value::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                number_in_text(text, size, expected)
            }
            _ => Err(wrong_type(expected, value)),
        };
        self.found(number)
    }

    fn node_type(&mut self, value: &Value) -> Option<NodeType> {
        let Value::Text(name) = value else {
            self.wrong_type("the name of a node type, such as \"full\"", value);
            return None;
        };
        let index = self.name(name, &NODE_TYPES)?;
        self.mark();
        Some(NodeType::ALL[index])
    }

    fn observe(&mut self, value: &Value) -> Option<Observe> {
        let observe = match value {
            Value::Text(text) if text == "everything" => Observe::everything(),
            Value::List(nodes) => {
                let mut observe = Observe::none();
                self.elements(nodes, |reader, value| match value {
                    Value::Text(name) => {
                        if let Some(index) = reader.name(name, &SCOPES) {
                            observe = observe.scope(OBSERVED[index]);
                        }
                    }
                    _ => reader.wrong_type("the name of a scope, such as \"peer\"", value),
                });
                observe
            }
            _ => {
                self.wrong_type("a list of scopes, or \"everything\"", value);
                return None;
            }
        };
        self.mark();
        Some(observe)
    }

    fn allow(&mut self, value: &Value) -> Option<AllowList> {
        let Value::List(nodes) = value else {
            self.wrong_type("a list of rules: [[allow]]", value);
            return None;
        };
        let mut rules = Vec::new();
        self.elements(nodes, |reader, value| rules.extend(reader.rule(value)));
        self.mark();
        Some(AllowList::of(rules))
    }

    fn rule(&mut self, value: &Value) -> Option<(Option<IpNet>, Option<PeerKey>)> {
        // `None` where it is not given, `Some(None)` where it is wrong.
        let (mut network, mut peer) = (None, None);
        self.entries(value, |reader, entry| match entry.key.as_str() {
            "network" => {
                network =
                    Some(reader.text("a network such as \"192.0.2.0/24\"", entry, parse_network))
            }
            "peer" => peer = Some(reader.text("the key of a peer as text", entry, parse_peer)),
            _ => reader.unknown_key(&RULE),
        });
        if network.is_none() && peer.is_none() && matches!(value, Value::Table(_)) {
            self.problem(ProblemKind::EmptyRule);
        }
        Some(match (network, peer) {
            (Some(network), Some(peer)) => (Some(network?), Some(peer?)),
            (Some(network), None) => (Some(network?), None),
            (None, Some(peer)) => (None, Some(peer?)),
            (None, None) => return None,
        })
    }

    fn text<T>(
        &mut self,
        expected: &'static str,
        entry: &Entry,
        parse: impl Fn(&str) -> Result<T, ProblemKind>,
    ) -> Option<T> {
        let parsed = match &entry.value {
            Value::Text(text) => parse(text),
            value => Err(wrong_type(expected, value)),
        };
        self.found(parsed)
    }

    /// Which of the known names it is.
    fn name(&mut self, name: &str, known: &'static [&'static str]) -> Option<usize> {
        let index = known.iter().position(|known| *known == name);
        if index.is_none() {
            let (name, nearest) = (name.to_owned(), nearest(name, known));
            self.problem(ProblemKind::UnknownName { name, nearest, known });
        }
        index
    }

    /// A value of the file, or what is wrong with it.
    fn found<T>(&mut self, value: Result<T, ProblemKind>) -> Option<T> {
        match value {
            Ok(value) => {
                self.mark();
                Some(value)
            }
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    /// The file sets what the path leads to.
    fn mark(&mut self) {
        self.set.insert(self.path.canonical());
    }

    fn problem(&mut self, kind: ProblemKind) {
        self.problems.add(&self.path, self.path.at(), kind);
    }

    fn problem_below(&mut self, key: &str, at: Option<usize>, kind: ProblemKind) {
        self.path.enter_key(key, at);
        self.problem(kind);
        self.path.leave();
    }

    fn wrong_type(&mut self, expected: &'static str, value: &Value) {
        self.problem(wrong_type(expected, value));
    }

    /// The last key of the path is none of those known there.
    fn unknown_key(&mut self, known: &'static [&'static str]) {
        let key = self.path.last_key().to_owned();
        let nearest = nearest(&key, known);
        self.problem(ProblemKind::UnknownKey { key, nearest, known });
    }
}

fn wrong_type(expected: &'static str, value: &Value) -> ProblemKind {
    ProblemKind::WrongType { expected, found: value.describe() }
}

fn number_of(number: i128) -> Result<u64, ProblemKind> {
    u64::try_from(number).map_err(|_| match number {
        ..0 => ProblemKind::Negative { text: number.to_string() },
        _ => ProblemKind::NumberTooLarge { most: u64::MAX },
    })
}

/// A number written as text: a size, or a count of more than the integers of TOML hold.
fn number_in_text(text: &str, size: bool, expected: &'static str) -> Result<u64, ProblemKind> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.as_bytes() {
        [b'0'..=b'9', ..] if size => size::parse(text),
        [b'0'..=b'9', ..] if digits(text) => {
            text.parse().map_err(|_| ProblemKind::NumberTooLarge { most: u64::MAX })
        }
        [b'0'..=b'9', ..] if size::parse(text).is_ok() => {
            Err(ProblemKind::SizeForCount { text: text.to_owned() })
        }
        [b'-', b'0'..=b'9', ..] => Err(ProblemKind::Negative { text: format!("{text:?}") }),
        _ if text.eq_ignore_ascii_case("default") => Err(ProblemKind::DefaultWord),
        _ => {
            let (text, meant) = (text.to_owned(), shape::meant_limit(text));
            Err(ProblemKind::NotALimit { text, meant, expected })
        }
    }
}
