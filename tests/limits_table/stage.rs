//! Every scope that can be limited, every way to ask for something, and a governor to ask.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::net::IpAddr;

use leasehold::{
    Admission, AdmitError, AllowList, BindError, ConnectionGuard, Direction, Governor, LeaseError,
    Limit, Limits, OwnedLease, PeerKey, Priority, Refused, Reservation, Resource, Scope,
    ScopeLimits, StreamGuard,
};

use crate::common::{Charges, KIB, assert_adds_up, charges, governor, scope};

/// An enum whose variants go by their own names, and a list of all of them.
macro_rules! listed {
    ($(#[$about:meta])* pub enum $name:ident in $all:ident {
        $($(#[$note:meta])* $variant:ident,)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$note])* $variant,)*
        }

        pub use $name::*;

        pub const $all: [$name; [$($variant),*].len()] = [$($variant),*];
    };
}

listed! {
    /// A scope, by where its limits are set.
    pub enum Spot in SPOTS {
        System,
        Transient,
        AllowlistedSystem,
        AllowlistedTransient,
        PeerDefault,
        PeerOverride,
        ClassDefault,
        ClassByName,
        ClassPeerDefault,
        ClassPeerByName,
        StreamClassDefault,
        StreamClassByName,
        StreamClassPeerDefault,
        StreamClassPeerByName,
        Connection,
        Stream,
    }
}

listed! {
    /// A way to ask for something.
    pub enum Way in WAYS {
        Reserve,
        LeaseBlock,
        LeaseLarge,
        Weight,
        Admit,
        AdmitInbound,
        AdmitOutbound,
        AdmitWithFd,
        Open,
        OpenInbound,
        OpenOutbound,
        /// The connection that has it already turns out to be the peer's.
        BindConnection,
        BindStream,
        BindMemory,
        /// The stream that has it already turns out to be of the class.
        ClassMemory,
    }
}

pub const LISTED: &str = "192.0.2.1";

pub fn alice() -> PeerKey {
    PeerKey::new("alice").unwrap()
}

impl Spot {
    pub fn scope(self) -> Scope {
        match self {
            System => Scope::System,
            Transient => Scope::Transient,
            AllowlistedSystem => Scope::AllowlistedSystem,
            AllowlistedTransient => Scope::AllowlistedTransient,
            PeerDefault | PeerOverride => Scope::Peer,
            ClassDefault | ClassByName | StreamClassDefault | StreamClassByName => Scope::Class,
            ClassPeerDefault | ClassPeerByName | StreamClassPeerDefault | StreamClassPeerByName => {
                Scope::ClassPeer
            }
            Connection => Scope::Connection,
            Stream => Scope::Stream,
        }
    }

    /// These limits here and none elsewhere. Where they are set by name, the default that they stand
    /// in for blocks everything.
    pub fn limits(self, limits: ScopeLimits) -> Limits {
        let all = Limits::unlimited();
        let nothing = ScopeLimits::blocked();
        let full = || all.clone().system(scope().connections(0)).allow(allowed());
        match self {
            System => all.system(limits),
            Transient => all.transient(limits),
            AllowlistedSystem => full().allowlisted_system(limits),
            AllowlistedTransient => full().allowlisted_transient(limits),
            PeerDefault => all.peer(limits),
            PeerOverride => all.peer(nothing).peer_override(alice(), limits),
            ClassDefault | StreamClassDefault => all.class_default(limits),
            ClassByName => all.class_default(nothing).class("public", limits),
            StreamClassByName => all.class_default(nothing).class("mail", limits),
            ClassPeerDefault | StreamClassPeerDefault => all.class_peer_default(limits),
            ClassPeerByName => all.class_peer_default(nothing).class_peer("public", limits),
            StreamClassPeerByName => all.class_peer_default(nothing).class_peer("mail", limits),
            Connection => all.connection(limits),
            Stream => all.stream(limits),
        }
    }

    pub fn is_allowlisted(self) -> bool {
        matches!(self, AllowlistedSystem | AllowlistedTransient)
    }

    pub fn is_of_peers(self) -> bool {
        matches!(self.scope(), Scope::Peer | Scope::ClassPeer)
    }

    pub fn is_of_class(self) -> bool {
        matches!(self, ClassDefault | ClassByName | ClassPeerDefault | ClassPeerByName)
    }

    pub fn is_of_stream_class(self) -> bool {
        matches!(
            self,
            StreamClassDefault | StreamClassByName | StreamClassPeerDefault | StreamClassPeerByName
        )
    }

    pub fn has(self, way: Way) -> bool {
        match way {
            Reserve | LeaseBlock | LeaseLarge => true,
            Weight | Admit | AdmitInbound | AdmitOutbound | AdmitWithFd => {
                !self.is_of_stream_class() && self != Stream
            }
            Open | OpenInbound | OpenOutbound => true,
            BindConnection => self.is_of_peers() && !self.is_of_stream_class(),
            BindStream | BindMemory => self.is_of_peers(),
            ClassMemory => self.is_of_stream_class(),
        }
    }
}

pub fn allowed() -> AllowList {
    AllowList::new().network("192.0.2.0/24".parse().unwrap())
}

impl Way {
    pub fn resource(self) -> Resource {
        match self {
            Reserve | LeaseBlock | LeaseLarge | Weight | BindMemory | ClassMemory => {
                Resource::Memory
            }
            Admit | BindConnection => Resource::Connections,
            AdmitInbound => Resource::ConnectionsInbound,
            AdmitOutbound => Resource::ConnectionsOutbound,
            AdmitWithFd => Resource::Fds,
            Open | BindStream => Resource::Streams,
            OpenInbound => Resource::StreamsInbound,
            OpenOutbound => Resource::StreamsOutbound,
        }
    }

    pub fn is_admission(self) -> bool {
        matches!(self, Weight | Admit | AdmitInbound | AdmitOutbound | AdmitWithFd)
    }

    /// How much is asked for at a time, and how little is too much on top of a full scope.
    pub fn portions(self) -> (u64, u64) {
        match self {
            Reserve | Weight | BindMemory | ClassMemory => (333, 1),
            LeaseBlock => (512, 512),
            LeaseLarge => (128 * KIB, 128 * KIB),
            _ => (1, 1),
        }
    }

    pub fn direction(self, nth: u64) -> Direction {
        match self {
            AdmitInbound | OpenInbound => Direction::Inbound,
            AdmitOutbound | OpenOutbound => Direction::Outbound,
            _ if nth.is_multiple_of(2) => Direction::Inbound,
            _ => Direction::Outbound,
        }
    }
}

/// How a row is filled: so many portions fit, and one of that size does not.
pub struct Plan {
    pub limit: u64,
    pub portions: u64,
    pub portion: u64,
    pub excess: u64,
}

pub fn plan(spot: Spot, way: Way) -> Plan {
    let (portion, excess) = way.portions();
    match (spot, way) {
        // A connection's own scope counts one connection, and a stream's one stream.
        (Connection, Admit | AdmitInbound | AdmitOutbound | AdmitWithFd)
        | (Stream, Open | OpenInbound | OpenOutbound) => {
            Plan { limit: 0, portions: 0, portion, excess }
        }
        // And a new connection has nothing yet.
        (Connection, Weight) => Plan { limit: 999, portions: 0, portion, excess: 1000 },
        _ => Plan { limit: 3 * portion, portions: 3, portion, excess },
    }
}

pub fn only(resource: Resource, limit: impl Into<Limit>) -> ScopeLimits {
    let limit = limit.into();
    match resource {
        Resource::Memory => scope().memory(limit),
        Resource::Connections => scope().connections(limit),
        Resource::ConnectionsInbound => scope().connections_inbound(limit),
        Resource::ConnectionsOutbound => scope().connections_outbound(limit),
        Resource::Streams => scope().streams(limit),
        Resource::StreamsInbound => scope().streams_inbound(limit),
        Resource::StreamsOutbound => scope().streams_outbound(limit),
        Resource::Fds => scope().fds(limit),
        other => panic!("{other} takes no limit"),
    }
}

/// A refusal, and all that was said about it.
pub struct No {
    pub refused: Refused,
    pub message: String,
    pub is_lease_error: bool,
}

impl From<AdmitError> for No {
    fn from(error: AdmitError) -> Self {
        let refused = *error.refused().expect("the names are short");
        Self { refused, message: error.to_string(), is_lease_error: false }
    }
}

impl From<BindError> for No {
    fn from(error: BindError) -> Self {
        let refused = *error.refused().expect("it is open, unbound, and the names are short");
        Self { refused, message: error.to_string(), is_lease_error: false }
    }
}

impl From<LeaseError> for No {
    fn from(error: LeaseError) -> Self {
        let refused = *error.refused().expect("the connection is open");
        let never = matches!(error, LeaseError::NeverFits(_));
        let too_much = match refused.limit() {
            Limit::Max(max) => refused.requested() > share_of(max, refused.priority()),
            other => other == Limit::Blocked,
        };
        assert_eq!(never, too_much, "{error}");
        Self { refused, message: error.to_string(), is_lease_error: true }
    }
}

/// What was granted, and goes back when it drops.
#[allow(dead_code, reason = "kept for its drop")]
#[derive(Default)]
pub struct Granted {
    pub reservation: Option<Reservation>,
    pub lease: Option<OwnedLease>,
    pub stream: Option<StreamGuard>,
    pub guard: Option<ConnectionGuard>,
}

/// Where things are asked for: a governor, and what has to be there first.
pub struct Stage {
    pub spot: Spot,
    pub way: Way,
    pub stream: Option<StreamGuard>,
    pub guard: Option<ConnectionGuard>,
    pub governor: Governor,
}

impl Stage {
    pub fn new(spot: Spot, way: Way, limits: Limits) -> Self {
        let governor = governor(limits);
        let mut stage = Self { spot, way, stream: None, guard: None, governor };
        let has_guard =
            !way.is_admission() && !matches!(way, BindConnection | BindStream | BindMemory);
        if has_guard {
            let admission = stage.admission(Direction::Inbound);
            stage.guard = Some(admission.try_admit().expect("room for one connection"));
        }
        let asks_stream = matches!(way, Reserve | LeaseBlock | LeaseLarge)
            && (spot == Stream || spot.is_of_stream_class());
        if asks_stream {
            let stream = stage.guard().handle().try_open_stream(Direction::Inbound).unwrap();
            if spot.is_of_stream_class() {
                stream.bind_class("mail").unwrap();
            }
            stage.stream = Some(stream);
        }
        stage
    }

    pub fn guard(&self) -> &ConnectionGuard {
        self.guard.as_ref().expect("a connection to ask on")
    }

    /// An admission of a connection that the scope counts, once it is bound if that is the way.
    pub fn admission(&self, direction: Direction) -> Admission<'_> {
        let admission = match direction {
            Direction::Inbound => self.governor.inbound(),
            Direction::Outbound => self.governor.outbound(),
        };
        let admission = admission.remote(LISTED.parse::<IpAddr>().unwrap());
        let admission = if self.spot.is_of_class() { admission.class("public") } else { admission };
        let binds = matches!(self.way, BindConnection | BindStream | BindMemory);
        let is_bound = self.spot.is_of_peers() || self.spot == AllowlistedSystem;
        if is_bound && !binds { admission.peer("alice") } else { admission }
    }

    /// What has to be there before the `nth` request.
    pub fn prepare(&self, nth: u64, amount: u64) -> Granted {
        let mut ready = Granted::default();
        match self.way {
            BindConnection => {
                ready.guard = Some(self.admission(Direction::Inbound).try_admit().unwrap());
            }
            BindStream | BindMemory => {
                let guard = self.admission(Direction::Inbound).try_admit().unwrap();
                if self.way == BindStream || self.spot.is_of_stream_class() {
                    ready.stream =
                        Some(guard.handle().try_open_stream(self.way.direction(nth)).unwrap());
                }
                if let (Some(stream), true) = (&ready.stream, self.spot.is_of_stream_class()) {
                    stream.bind_class("mail").unwrap();
                }
                if self.way == BindMemory {
                    let reserved = match &ready.stream {
                        Some(stream) => stream.try_reserve(amount),
                        None => guard.handle().try_reserve(amount),
                    };
                    ready.reservation = Some(reserved.unwrap());
                }
                ready.guard = Some(guard);
            }
            Open | OpenInbound | OpenOutbound if self.spot.is_of_stream_class() => {
                let opened = self.guard().handle().try_open_stream(self.way.direction(nth));
                ready.stream = Some(opened.unwrap());
            }
            ClassMemory => {
                let stream = self.guard().handle().try_open_stream(Direction::Inbound).unwrap();
                ready.reservation = Some(stream.try_reserve(amount).unwrap());
                ready.stream = Some(stream);
            }
            _ => {}
        }
        ready
    }

    /// Asks for the `nth` portion.
    pub fn ask(&self, ready: &Granted, nth: u64, amount: u64) -> Result<Granted, No> {
        let mut granted = Granted::default();
        match self.way {
            Reserve => {
                granted.reservation = Some(match &self.stream {
                    Some(stream) => stream.try_reserve(amount)?,
                    None => self.guard().handle().try_reserve(amount)?,
                });
            }
            LeaseBlock | LeaseLarge => {
                granted.lease = Some(match &self.stream {
                    Some(stream) => stream.try_lease_owned(amount as usize)?,
                    None => self.guard().handle().try_lease_owned(amount as usize)?,
                });
            }
            Weight => {
                let admission = self.admission(Direction::Inbound);
                granted.guard = Some(admission.weight(amount).try_admit()?);
            }
            Admit | AdmitInbound | AdmitOutbound | AdmitWithFd => {
                let admission = self.admission(self.way.direction(nth));
                granted.guard = Some(admission.try_admit()?);
            }
            Open | OpenInbound | OpenOutbound => match &ready.stream {
                Some(stream) => stream.bind_class("mail")?,
                None => {
                    let opened = self.guard().handle().try_open_stream(self.way.direction(nth))?;
                    granted.stream = Some(opened);
                }
            },
            BindConnection | BindStream | BindMemory => {
                ready.guard.as_ref().expect("a connection to bind").handle().bind_peer("alice")?;
            }
            ClassMemory => ready.stream.as_ref().expect("a stream to bind").bind_class("mail")?,
        }
        Ok(granted)
    }

    /// As [`ask`](Self::ask), of what has to be granted.
    pub fn take(&self, nth: u64, amount: u64) -> (Granted, Granted) {
        let ready = self.prepare(nth, amount);
        let granted = self.ask(&ready, nth, amount);
        let granted = granted.unwrap_or_else(|no| panic!("{self}, {nth}: {}", no.message));
        (granted, ready)
    }

    /// Gives idle blocks back, which are charged already and can be leased whatever the limits.
    pub fn trim(&self) {
        if let Some(guard) = &self.guard {
            guard.handle().trim();
        }
    }

    /// Every row of the tree, and what is mapped.
    pub fn rows(&self) -> (Charges, u64) {
        let snapshot = assert_adds_up(&self.governor);
        (charges(&snapshot), snapshot.arena.mapped_bytes)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {:?}", self.spot, self.way)
    }
}

pub fn name(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "system",
        Scope::Transient => "transient",
        Scope::AllowlistedSystem => "allow-listed system",
        Scope::AllowlistedTransient => "allow-listed transient",
        Scope::Peer => "peer",
        Scope::Class => "class",
        Scope::ClassPeer => "class-per-peer",
        Scope::Connection => "connection",
        Scope::Stream => "stream",
        other => panic!("{other} is not in the table"),
    }
}

pub fn unit(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "bytes of memory",
        Resource::Connections => "connections",
        Resource::ConnectionsInbound => "inbound connections",
        Resource::ConnectionsOutbound => "outbound connections",
        Resource::Streams => "streams",
        Resource::StreamsInbound => "inbound streams",
        Resource::StreamsOutbound => "outbound streams",
        Resource::Fds => "file descriptors",
        other => panic!("{other} is not in the table"),
    }
}

pub fn share_of(limit: u64, priority: Priority) -> u64 {
    let percent: u128 = match priority {
        Priority::Low => 40,
        Priority::Medium => 60,
        Priority::High => 80,
        Priority::Critical => 100,
    };
    (u128::from(limit) * percent / 100) as u64
}

pub fn rows_of_the_table() -> impl Iterator<Item = (Spot, Way)> {
    SPOTS.into_iter().flat_map(|spot| {
        WAYS.into_iter().filter(move |way| spot.has(*way)).map(move |way| (spot, way))
    })
}
