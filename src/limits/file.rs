//! Limits in files, in TOML and JSON.

mod guess;
mod json;
mod names;
mod patch;
mod path;
mod problem;
mod read;
mod shape;
mod size;
mod toml;
mod tree;
mod write;

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, de};

use super::{Host, Limits, NodeType};
use patch::Patch;
use problem::Problems;
pub use problem::{FileError, Position, Problem, ProblemKind};
use tree::{MAX_DEPTH, Value};

/// A limits file: what it says, and only that.
///
/// A file names the type of the node and what differs from the limits of that type. Without a node
/// type it differs from [`Limits::unlimited`], so that whatever it does not mention is unlimited.
///
/// ```
/// use leasehold::{Host, Limit, LimitsFile};
///
/// let file = LimitsFile::from_toml(r#"
///     node_type = "relay"
///     budget = "4 GiB"
///
///     [system]
///     connections = 20_000
///
///     [peers.alice]
///     memory = "64 MiB"
///
///     [subnets.ipv4.32]
///     connections = 4
///     rate = "12/m"
///     burst = 16
/// "#)?;
/// let limits = file.limits(&Host::new(64 << 30, 65_536));
/// assert_eq!(limits.system.connections, Limit::Max(20_000));
/// assert_eq!(limits.subnets.ipv4[&32].connections, Limit::Max(4));
/// assert!(file.sets("peers.alice.memory") && !file.sets("peers.alice.fds"));
/// # Ok::<(), leasehold::FileError>(())
/// ```
///
/// # Grammar
///
/// The same in TOML and JSON, every key optional, and no other key allowed:
///
/// ```toml
/// node_type = "relay"          # light, full, relay, bootstrap, validator or gateway
/// budget = "4 GiB"             # memory for connections, in the place of the host's; only with
/// fds = 65536                  # a node type, as are the file descriptors
/// observe = ["system", "peer"] # or "everything"
///
/// [system]                     # everything together
/// memory = "1 GiB"
/// connections = 500            # and connections_inbound, connections_outbound
/// streams = "unlimited"        # and streams_inbound, streams_outbound
/// fds = "blocked"
///
/// [transient]                  # with the same keys: allowlisted_system, allowlisted_transient,
/// connections = 50             # peer, connection, stream, class_default, class_peer_default
///
/// [peers.alice]                # in the place of [peer], from which comes what is left out
/// memory = "64 MiB"
///
/// [classes.gossipsub]          # the same of [class_default]
/// streams = 1000
///
/// [class_peers.gossipsub]      # the same of [class_peer_default]
/// streams = 4
///
/// [subnets.ipv4.32]            # each IPv4 address; also subnets.ipv6.56 or ipv6."/56"
/// connections = 8
/// rate = "0.2/s"
/// burst = 16
///
/// [subnets.networks."10.0.0.0/8"]
/// connections = "unlimited"
/// rate = "unlimited"
///
/// [[allow]]                    # with a network, a peer or both
/// network = "192.0.2.0/24"
/// peer = "alice"
/// ```
///
/// - A *limit* is a whole number, `"unlimited"` or `"blocked"`. Zero is a number like any other,
///   and no number means unlimited. One that TOML's integers do not hold is written in quotes.
/// - *Memory* is such a number of bytes, or a *size* in quotes: a number and `B`, `KiB`, `MiB`,
///   `GiB`, `TiB`, `PiB`, `EiB` (powers of 1024), `kB`, `MB`, `GB`, `TB`, `PB` or `EB` (of 1000).
///   `"1.5 GiB"` is fine, for it is a whole number of bytes.
/// - A *rate* is so many in a time, `"12/m"`, or one in a longer time, `"1/5s"`, with the units
///   `ns`, `us`, `ms`, `s`, `m`, `h` and `d`. The interval between two is kept to the nanosecond.
///   A rate needs a *burst*, from 1; `rate = "unlimited"` removes the rate of the node type.
/// - The *key of a peer* is text, or `"hex:"` and hexadecimal digits if it is not text or itself
///   begins with `hex:`. It has at most [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES), like the name
///   of a class.
/// - A *network* is in CIDR notation, without bits behind its prefix.
/// - `observe` lists `system`, `transient`, `allowlisted_system`, `allowlisted_transient`,
///   `subnet`, `peer`, `class`, `class_peer`, `connection` and `stream`. It and `allow` replace
///   what the node type has; everything else is replaced value by value.
///
/// A file of up to [`MAX_BYTES`](Self::MAX_BYTES) is read, nested up to 16 levels deep. All that is
/// wrong with it is in one [`FileError`].
///
/// # As a part of another file
///
/// With serde, [`Limits`] and `LimitsFile` can be fields of a program's own configuration, in any
/// format that describes itself. Limits alone know no host, so their file may not have a node type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitsFile {
    node_type: Option<NodeType>,
    budget: Option<u64>,
    fds: Option<u64>,
    patch: Patch,
    /// The path of every value in it.
    set: BTreeSet<String>,
}

impl LimitsFile {
    /// The longest text that is read, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Reads a file in TOML.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, with lines and columns.
    pub fn from_toml(text: &str) -> Result<Self, FileError> {
        bounded(text)?;
        Self::of(&toml::read(text)?, text)
    }

    /// Reads a file in JSON.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, but only the first error of its syntax.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        bounded(text)?;
        Self::of(&json::read(text)?, text)
    }

    /// The limits of the node type on this host, changed as the file says.
    pub fn limits(&self, host: &Host) -> Limits {
        let host = self.host(host);
        let mut limits = match self.node_type {
            Some(node_type) => node_type.limits(&host),
            None => Limits::unlimited(),
        };
        self.patch.apply(&mut limits);
        limits
    }

    /// The node type, if the file names one.
    pub fn node_type(&self) -> Option<NodeType> {
        self.node_type
    }

    /// The host, with the budget and the file descriptors of the file in the place of its own.
    pub fn host(&self, host: &Host) -> Host {
        let host = self.budget.map_or(*host, |budget| host.with_budget(budget));
        self.fds.map_or(host, |fds| host.with_fds(fds))
    }

    /// Whether the file itself has a value or section here, in the spelling of
    /// [`paths`](Self::paths).
    pub fn sets(&self, path: &str) -> bool {
        self.set.contains(path)
    }

    /// The paths of all that the file has a value for, and of each peer, class, prefix and network
    /// it names, in order: `peers.alice`, `peers.alice.memory`. A key that is not only of ASCII
    /// letters, digits, `_` and `-` is in quotes, and always spelled the same: `subnets.ipv4.32`,
    /// `subnets.networks."10.0.0.0/8".rate`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.set.iter().map(String::as_str)
    }

    /// What the values of a text say.
    fn of(value: &Value, text: &str) -> Result<Self, FileError> {
        if value.is_too_deep() {
            return Err(FileError::of("", None, ProblemKind::TooDeep { most: MAX_DEPTH }));
        }
        let mut problems = Problems::default();
        let file = read::read(value, &mut problems);
        if problems.is_empty() { Ok(file) } else { Err(problems.into_error(text)) }
    }

    /// The limits of a file that needs no host for them.
    fn limits_without_host(&self) -> Result<Limits, FileError> {
        if self.node_type.is_some() {
            return Err(FileError::of("node_type", None, ProblemKind::NeedsHost));
        }
        let mut limits = Limits::unlimited();
        self.patch.apply(&mut limits);
        Ok(limits)
    }
}

fn bounded(text: &str) -> Result<(), FileError> {
    let (bytes, most) = (text.len(), LimitsFile::MAX_BYTES);
    if bytes > most {
        return Err(FileError::of("", None, ProblemKind::FileTooLarge { bytes, most }));
    }
    Ok(())
}

/// As a part of another file; see [`LimitsFile`].
impl<'de> Deserialize<'de> for LimitsFile {
    fn deserialize<D: Deserializer<'de>>(format: D) -> Result<Self, D::Error> {
        Self::of(&Value::deserialize(format)?, "").map_err(de::Error::custom)
    }
}

/// What [`LimitsFile`] describes, without a node type.
impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(format: D) -> Result<Self, D::Error> {
        LimitsFile::deserialize(format)?.limits_without_host().map_err(de::Error::custom)
    }
}

impl Limits {
    /// The complete limits as a file in TOML, without a node type: always the same text for the
    /// same limits, and read back by [`LimitsFile::from_toml`] as exactly these, whatever the host,
    /// if it has no more than [`LimitsFile::MAX_BYTES`].
    pub fn to_toml(&self) -> String {
        ::toml::to_string(self).expect("every value of limits has a form in TOML")
    }

    /// The same in JSON.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("every value of limits has a form in JSON");
        text.push('\n');
        text
    }
}
