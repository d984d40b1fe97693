//! What each scope may use at most: plain data, which a governor takes whole.
//!
//! A value of a limit is [`Limit::Unlimited`](crate::Limit), `Blocked` or a number. Zero is a number like
//! any other, and what is not set is unlimited everywhere: by subnet and by rate too.

mod allow;
mod check;
#[cfg(feature = "serde")]
mod file;
mod host;
mod node_type;
mod observe;
mod rate;
mod scope;
mod subnets;

use std::collections::BTreeMap;

use crate::error::{ConfigError, NameTooLong, Scope};
use crate::limit::Limit;
use crate::name::PeerKey;
use crate::ranges::{self, MAX_NAME_BYTES};
pub use allow::{AllowList, AllowRule};
pub use check::LimitWarning;
#[cfg(feature = "serde")]
pub use file::{FileError, LimitsFile, Position, Problem, ProblemKind};
pub use host::Host;
pub use node_type::{NodeType, UnknownNodeType};
pub use observe::Observe;
pub use rate::Rate;
pub use scope::ScopeLimits;
pub use subnets::{PrefixLimits, SubnetLimits};

/// The limits of every scope of a governor.
///
/// ```
/// use leasehold::{Governor, Limits, ScopeLimits};
///
/// let limits = Limits::unlimited()
///     .system(ScopeLimits::unlimited().memory(64 << 20).connections(500))
///     .peer(ScopeLimits::unlimited().memory(1 << 20).connections(8))
///     .connection(ScopeLimits::unlimited().memory(256 << 10))
///     .class("public", ScopeLimits::unlimited().connections(400));
/// let governor = Governor::new(limits)?;
/// # Ok::<(), leasehold::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Everything together, but for what is allow-listed.
    pub system: ScopeLimits,
    /// All connections whose peer is not known yet, together.
    pub transient: ScopeLimits,
    /// Everything that the allow list admitted after the ordinary scopes had refused it.
    pub allowlisted_system: ScopeLimits,
    /// Of that, all connections whose peer is not known yet.
    pub allowlisted_transient: ScopeLimits,
    /// Each peer that has no limits of its own.
    pub peer: ScopeLimits,
    /// Single peers, in the place of [`peer`](field@Self::peer).
    pub peers: BTreeMap<PeerKey, ScopeLimits>,
    /// Each connection.
    pub connection: ScopeLimits,
    /// Each stream: memory, and whether it may be opened at all.
    pub stream: ScopeLimits,
    /// Each class that has no limits of its own.
    pub class_default: ScopeLimits,
    /// Single classes, in the place of [`class_default`](field@Self::class_default).
    pub classes: BTreeMap<Box<str>, ScopeLimits>,
    /// Each peer's part of each class that has no such limits of its own.
    pub class_peer_default: ScopeLimits,
    /// Each peer's part of single classes, by class.
    pub class_peers: BTreeMap<Box<str>, ScopeLimits>,
    /// Inbound connections by where they come from.
    pub subnets: SubnetLimits,
    /// Connections that are admitted although the ordinary scopes refuse.
    pub allow: AllowList,
    /// Which scopes only count what they would refuse.
    pub observe: Observe,
}

/// Writes the builder methods that set one field.
macro_rules! setters {
    ($($field:ident: $limits:ty),+ $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Limits::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, limits: $limits) -> Self {
            self.$field = limits;
            self
        }
    )+};
}

impl Limits {
    /// How many classes, and peers' parts of classes, can have limits of their own.
    pub const MAX_CLASS_NAMES: usize = ranges::MAX_CLASS_NAMES;

    /// No limit anywhere, so that a library can always wrap its connections.
    pub fn unlimited() -> Self {
        Self::default()
    }

    setters! {
        system: ScopeLimits,
        transient: ScopeLimits,
        allowlisted_system: ScopeLimits,
        allowlisted_transient: ScopeLimits,
        peer: ScopeLimits,
        connection: ScopeLimits,
        stream: ScopeLimits,
        class_default: ScopeLimits,
        class_peer_default: ScopeLimits,
        subnets: SubnetLimits,
        allow: AllowList,
        observe: Observe,
    }

    /// Limits of one peer, in the place of any given for it before.
    #[must_use]
    pub fn peer_override(mut self, peer: PeerKey, limits: ScopeLimits) -> Self {
        self.peers.insert(peer, limits);
        self
    }

    /// Limits of the class called `name`, in the place of any given for it before.
    #[must_use]
    pub fn class(mut self, name: &str, limits: ScopeLimits) -> Self {
        self.classes.insert(name.into(), limits);
        self
    }

    /// Limits of each peer's part of the class called `name`.
    #[must_use]
    pub fn class_peer(mut self, name: &str, limits: ScopeLimits) -> Self {
        self.class_peers.insert(name.into(), limits);
        self
    }

    /// The limits in force for the class called `name`.
    pub fn of_class(&self, name: &str) -> &ScopeLimits {
        self.classes.get(name).unwrap_or(&self.class_default)
    }

    /// The limits in force for each peer's part of the class called `name`.
    pub fn of_class_peer(&self, name: &str) -> &ScopeLimits {
        self.class_peers.get(name).unwrap_or(&self.class_peer_default)
    }

    /// The limits in force for a peer.
    pub fn of_peer(&self, peer: &PeerKey) -> &ScopeLimits {
        self.peers.get(peer).unwrap_or(&self.peer)
    }

    /// How much memory may be charged to all scopes together. The allow-listed ones count if the
    /// allow list names anything, or they are still in use.
    pub(crate) fn mapped_memory(&self, allowlisted_in_use: bool) -> Limit {
        let systems = [
            (Scope::System, self.system.memory),
            (Scope::AllowlistedSystem, self.allowlisted_system.memory),
        ];
        let used = if self.allow.rules().is_empty() && !allowlisted_in_use { 1 } else { 2 };
        let mut sum = 0_u64;
        for (scope, limit) in &systems[..used] {
            if self.observe.contains(*scope) || *limit == Limit::Unlimited {
                return Limit::Unlimited;
            }
            sum = sum.saturating_add(limit.max());
        }
        Limit::Max(sum)
    }

    /// Whether the memory of any scope of connections is blocked.
    pub(crate) fn bars_memory(&self) -> bool {
        let fixed = [
            &self.system,
            &self.transient,
            &self.allowlisted_system,
            &self.allowlisted_transient,
            &self.peer,
            &self.connection,
            &self.class_default,
            &self.class_peer_default,
        ];
        let named = self.classes.values().chain(self.class_peers.values());
        let mut all = fixed.into_iter().chain(named).chain(self.peers.values());
        all.any(|limits| limits.memory == Limit::Blocked)
    }

    /// Whether a governor can take these limits.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let count = self.classes.len() + self.class_peers.len();
        if count > Self::MAX_CLASS_NAMES {
            return Err(ConfigError::ClassNames { count });
        }
        for name in self.classes.keys().chain(self.class_peers.keys()) {
            if name.len() > MAX_NAME_BYTES {
                return Err(ConfigError::NameTooLong(NameTooLong { len: name.len() }));
            }
        }
        for (most, lengths) in [(32, &self.subnets.ipv4), (128, &self.subnets.ipv6)] {
            if let Some((&length, _)) = lengths.last_key_value()
                && length > most
            {
                return Err(ConfigError::PrefixLength { length, most });
            }
        }
        Ok(())
    }
}
