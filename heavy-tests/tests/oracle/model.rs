//! The model: a list of what each connection holds. It has no blocks, no caches, no locks and no tree. A scope's
//! use is a sum over the list, and a request is refused if, and only if, a sum would exceed a limit.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use leasehold::{
    Direction, Limit, Limits, Priority, Rate, Reason, Refused, Resource, Scope, ScopeLimits, Usage,
};
use leasehold_heavy_tests::common::add;

use crate::op::{CLASSES, INTERVAL, PACED, peer_key};

/// Where a connection hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub allowlisted: bool,
    pub peer: Option<usize>,
    pub class: Option<usize>,
}

pub struct Conn {
    pub place: Place,
    /// The guard lives.
    pub here: bool,
    pub open: bool,
    pub direction: Direction,
    pub fd: bool,
    /// Reserved with the admission, until the close.
    pub weight: u64,
    pub address: Option<IpAddr>,
    /// Its address counts it.
    pub counted: bool,
}

pub struct Stream {
    pub id: u64,
    pub conn: usize,
    pub direction: Direction,
    /// The guard lives.
    pub here: bool,
    /// A class that is not its connection's.
    pub class: Option<usize>,
    /// It was bound to the class that its connection has.
    pub in_own_class: bool,
}

/// A lease, a reservation, or what became of it.
pub struct Item {
    pub conn: usize,
    pub stream: Option<u64>,
    pub bytes: u64,
    /// Bytes written to it.
    pub len: usize,
    /// Whether it is still charged: a close takes what no thread touches.
    pub charged: bool,
    /// Of a reservation.
    pub priority: Priority,
}

pub type Counts = BTreeMap<(Scope, Resource, Reason), u64>;

#[derive(Default)]
pub struct Model {
    pub limits: Limits,
    pub conns: Vec<Conn>,
    pub streams: Vec<Stream>,
    pub items: Vec<Item>,
    /// Seconds.
    pub now: u64,
    /// When a whole burst is due again: of connections, of validation.
    pub due: [u64; 2],
    pub refusals: Counts,
    pub observed: Counts,
    pub admitted: u64,
}

/// One scope is asked for more.
#[derive(Clone, Debug)]
pub struct Ask {
    pub scope: Scope,
    limits: ScopeLimits,
    used: Usage,
    more: Usage,
    priority: Priority,
}

/// A refusal, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub scope: Scope,
    pub resource: Resource,
    pub reason: Reason,
    pub limit: Limit,
    pub in_use: u64,
    pub requested: u64,
    pub priority: Priority,
    pub prefix_len: Option<u8>,
    /// The allow list covers the connection that was refused, so that another time the scopes that it opens may
    /// have room.
    pub has_fallback: bool,
}

impl Ask {
    /// What this scope alone says.
    fn answer(&self) -> Result<(), Row> {
        let Self { scope, limits, used: u, more: m, priority } = self;
        let rows = [
            (Resource::Memory, u.memory, m.memory),
            (Resource::Connections, u.connections(), m.connections()),
            (
                Resource::ConnectionsInbound,
                u.connections_inbound.into(),
                m.connections_inbound.into(),
            ),
            (
                Resource::ConnectionsOutbound,
                u.connections_outbound.into(),
                m.connections_outbound.into(),
            ),
            (Resource::Streams, u.streams(), m.streams()),
            (Resource::StreamsInbound, u.streams_inbound.into(), m.streams_inbound.into()),
            (Resource::StreamsOutbound, u.streams_outbound.into(), m.streams_outbound.into()),
            (Resource::Fds, u.fds.into(), m.fds.into()),
        ];
        for (resource, in_use, requested) in rows {
            let limit = limits.of(resource);
            let share = if resource == Resource::Memory { priority.percent() } else { 100 };
            let fits = match limit {
                Limit::Unlimited => true,
                Limit::Blocked => false,
                Limit::Max(max) => in_use + requested <= max * share / 100,
            };
            if requested > 0 && !fits {
                let reason = if limit == Limit::Blocked { Reason::Blocked } else { Reason::Limit };
                let priority =
                    if resource == Resource::Memory { *priority } else { Priority::Critical };
                let (scope, prefix_len) = (*scope, None);
                return Err(Row {
                    scope,
                    resource,
                    reason,
                    limit,
                    in_use,
                    requested,
                    priority,
                    prefix_len,
                    has_fallback: false,
                });
            }
        }
        Ok(())
    }
}

impl Row {
    fn key(&self) -> (Scope, Resource, Reason) {
        (self.scope, self.resource, self.reason)
    }

    /// More than the limit even with nothing in use.
    pub fn never_fits(&self) -> bool {
        match self.limit {
            Limit::Unlimited => false,
            Limit::Blocked => true,
            Limit::Max(max) => self.requested > max * self.priority.percent() / 100,
        }
    }

    /// Checks the numbers of a real refusal. A request that all idle memory would not help takes none:
    /// its scope may use more than the model knows of, and a connection that moves bring more.
    #[track_caller]
    pub fn assert_told_by(&self, refused: &Refused) {
        let may_be_idle = self.resource == Resource::Memory;
        let matches = |told, known| told == known || may_be_idle && told > known;
        assert!(matches(refused.in_use(), self.in_use), "{refused}, not {self:?}");
        assert!(matches(refused.requested(), self.requested), "{refused}, not {self:?}");
        let told = Row {
            scope: refused.scope(),
            resource: refused.resource(),
            reason: refused.reason(),
            limit: refused.limit(),
            in_use: self.in_use,
            requested: self.requested,
            priority: refused.priority(),
            prefix_len: refused.prefix_len(),
            has_fallback: self.has_fallback,
        };
        assert_eq!(told, *self, "{refused}");
        assert_eq!(refused.retry_after().is_some(), self.reason == Reason::Rate);
    }
}

/// Sums over the list.
impl Model {
    pub fn counts_of_conn(direction: Direction, fd: bool) -> Usage {
        let mut usage = Usage::default();
        match direction {
            Direction::Inbound => usage.connections_inbound = 1,
            Direction::Outbound => usage.connections_outbound = 1,
        }
        usage.fds = fd.into();
        usage
    }

    /// What one connection uses.
    pub fn of_conn(&self, nth: usize) -> Usage {
        let conn = &self.conns[nth];
        let mut usage = Usage::default();
        if conn.here {
            usage = Self::counts_of_conn(conn.direction, conn.fd);
            for stream in self.streams.iter().filter(|stream| stream.conn == nth && stream.here) {
                add(&mut usage, &stream_count(stream.direction));
            }
        }
        let items = self.items.iter().filter(|item| item.conn == nth && item.charged);
        usage.memory = conn.weight + items.map(|item| item.bytes).sum::<u64>();
        usage
    }

    /// What all connections use that hang where `pick` says.
    pub fn of(&self, pick: impl Fn(&Conn) -> bool) -> Usage {
        let mut usage = Usage::default();
        for nth in (0..self.conns.len()).filter(|nth| pick(&self.conns[*nth])) {
            add(&mut usage, &self.of_conn(nth));
        }
        usage
    }

    /// What one stream's leases and reservations are together.
    pub fn of_stream(&self, id: u64) -> u64 {
        self.items.iter().filter(|item| item.stream == Some(id)).map(|item| item.bytes).sum()
    }

    /// What one stream is charged to its class.
    fn of_stream_to_class(&self, stream: &Stream) -> Usage {
        let mut usage = Usage::default();
        if stream.here {
            usage = stream_count(stream.direction);
        }
        if self.conns[stream.conn].open {
            usage.memory = self.of_stream(stream.id);
        }
        usage
    }

    /// Streams with a class of their own that count for it.
    pub fn classed_streams(&self, class: usize) -> impl Iterator<Item = &Stream> {
        let counts =
            move |stream: &&Stream| stream.class == Some(class) && self.conns[stream.conn].here;
        self.streams.iter().filter(counts)
    }

    pub fn of_class(&self, class: usize, peer: Option<usize>) -> Usage {
        let fits = |conn: &Conn| peer.is_none() || conn.place.peer == peer;
        let mut usage = self.of(|conn| conn.place.class == Some(class) && conn.here && fits(conn));
        for stream in self.classed_streams(class).filter(|stream| fits(&self.conns[stream.conn])) {
            add(&mut usage, &self.of_stream_to_class(stream));
        }
        usage
    }

    pub fn of_system(&self, allowlisted: bool) -> Usage {
        self.of(|conn| conn.place.allowlisted == allowlisted)
    }

    pub fn of_transient(&self, allowlisted: bool) -> Usage {
        let transient = |place: Place| place.allowlisted == allowlisted && place.peer.is_none();
        self.of(|conn| conn.here && transient(conn.place))
    }
}

/// Which scopes are asked, in order.
impl Model {
    fn ask(scope: Scope, limits: &ScopeLimits, used: Usage, more: &Usage) -> Ask {
        Ask { scope, limits: *limits, used, more: *more, priority: Priority::Critical }
    }

    fn ask_system(&self, allowlisted: bool, more: &Usage) -> Ask {
        let used = self.of_system(allowlisted);
        match allowlisted {
            false => Self::ask(Scope::System, &self.limits.system, used, more),
            true => {
                Self::ask(Scope::AllowlistedSystem, &self.limits.allowlisted_system, used, more)
            }
        }
    }

    fn ask_transient(&self, allowlisted: bool, more: &Usage) -> Ask {
        let used = self.of_transient(allowlisted);
        let limits = &self.limits;
        match allowlisted {
            false => Self::ask(Scope::Transient, &limits.transient, used, more),
            true => {
                let transient = &limits.allowlisted_transient;
                Self::ask(Scope::AllowlistedTransient, transient, used, more)
            }
        }
    }

    fn ask_peer(&self, peer: usize, more: &Usage) -> Ask {
        let limits = self.limits.of_peer(&peer_key(peer));
        Self::ask(Scope::Peer, limits, self.of(|conn| conn.place.peer == Some(peer)), more)
    }

    fn ask_class_peer(&self, class: usize, peer: usize, more: &Usage) -> Ask {
        let limits = self.limits.of_class_peer(CLASSES[class]);
        Self::ask(Scope::ClassPeer, limits, self.of_class(class, Some(peer)), more)
    }

    /// The peer's part of a class, if the peer is known, and the class.
    pub fn ask_class(&self, class: usize, peer: Option<usize>, more: &Usage) -> Vec<Ask> {
        let mut asks: Vec<_> =
            peer.map(|peer| self.ask_class_peer(class, peer, more)).into_iter().collect();
        let limits = self.limits.of_class(CLASSES[class]);
        asks.push(Self::ask(Scope::Class, limits, self.of_class(class, None), more));
        asks
    }

    /// A connection that uses `own`, and all above it.
    pub fn ask_conn(&self, own: Usage, place: Place, more: &Usage) -> Vec<Ask> {
        let mut asks = vec![Self::ask(Scope::Connection, &self.limits.connection, own, more)];
        asks.push(match place.peer {
            Some(peer) => self.ask_peer(peer, more),
            None => self.ask_transient(place.allowlisted, more),
        });
        if let Some(class) = place.class {
            asks.extend(self.ask_class(class, place.peer, more));
        }
        asks.push(self.ask_system(place.allowlisted, more));
        asks
    }

    /// Everyone, for a connection or a stream that wants more.
    pub fn ask_all(
        &self,
        conn: usize,
        stream: Option<u64>,
        more: &Usage,
        priority: Priority,
    ) -> Vec<Ask> {
        let mut asks = Vec::new();
        if let Some(id) = stream {
            let mut used = Usage::default();
            used.memory = self.of_stream(id);
            asks.push(Self::ask(Scope::Stream, &self.limits.stream, used, more));
        }
        let place = self.conns[conn].place;
        // The class of the stream after the connection itself, and before all above it.
        let mut of_conn = self.ask_conn(self.of_conn(conn), place, more).into_iter();
        asks.extend(of_conn.next());
        let stream = self.streams.iter().find(|other| Some(other.id) == stream);
        if let Some(class) = stream.and_then(|stream| stream.class) {
            asks.extend(self.ask_class(class, place.peer, more));
        }
        asks.extend(of_conn);
        for ask in &mut asks {
            ask.priority = priority;
        }
        asks
    }

    /// Everyone, for one more stream.
    pub fn ask_stream(&self, conn: usize, direction: Direction) -> Vec<Ask> {
        let more = stream_count(direction);
        let mut asks = vec![Self::ask(Scope::Stream, &self.limits.stream, Usage::default(), &more)];
        asks.extend(self.ask_all(conn, None, &more, Priority::Critical));
        asks
    }

    /// What a stream is charged to a class that it gets.
    pub fn ask_bind_class(&self, stream: usize, class: usize) -> Vec<Ask> {
        let stream = &self.streams[stream];
        let peer = self.conns[stream.conn].place.peer;
        self.ask_class(class, peer, &self.of_stream_to_class(stream))
    }

    /// Every scope that has not counted the connection until now, for its bind to a peer.
    pub fn ask_bind(&self, conn: usize, peer: usize, allowlisted: bool) -> Vec<Ask> {
        let (own, place) = (self.of_conn(conn), self.conns[conn].place);
        let mut asks = vec![self.ask_peer(peer, &own)];
        asks.extend(place.class.map(|class| self.ask_class_peer(class, peer, &own)));
        if allowlisted != place.allowlisted {
            asks.push(self.ask_system(allowlisted, &own));
        }
        let mut parts: Vec<(usize, Usage)> = Vec::new();
        for stream in self.streams.iter().filter(|stream| stream.conn == conn) {
            let Some(class) = stream.class else { continue };
            let usage = self.of_stream_to_class(stream);
            match parts.iter_mut().find(|(of, _)| *of == class) {
                Some((_, part)) => add(part, &usage),
                None => parts.push((class, usage)),
            }
        }
        asks.extend(parts.iter().map(|(class, part)| self.ask_class_peer(*class, peer, part)));
        asks
    }

    /// The scopes that a connection moves to when it changes sides, with `more` on top.
    pub fn ask_realm(
        &self,
        conn: usize,
        allowlisted: bool,
        more: &Usage,
        priority: Priority,
    ) -> Vec<Ask> {
        let mut all = self.of_conn(conn);
        add(&mut all, more);
        let mut asks = Vec::new();
        if self.conns[conn].place.peer.is_none() {
            asks.push(self.ask_transient(allowlisted, &all));
        }
        asks.push(self.ask_system(allowlisted, &all));
        for ask in &mut asks {
            ask.priority = priority;
        }
        asks
    }

    /// The first that refuses, and is not there to observe only.
    pub fn verdict(&self, asks: &[Ask]) -> Result<(), Row> {
        let enforced = asks.iter().filter(|ask| !self.limits.observe.contains(ask.scope));
        enforced.map(Ask::answer).find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Counts what those would have refused that only observe.
    pub fn note_observed(&mut self, asks: &[Ask]) {
        for ask in asks.iter().filter(|ask| self.limits.observe.contains(ask.scope)) {
            if let Err(row) = ask.answer() {
                *self.observed.entry(row.key()).or_default() += 1;
            }
        }
    }

    pub fn note_observed_subnet(&mut self, by_subnet: Option<Row>) {
        if let Some(row) = by_subnet {
            *self.observed.entry(row.key()).or_default() += 1;
        }
    }

    pub fn note_refused(&mut self, row: &Row) {
        *self.refusals.entry(row.key()).or_default() += 1;
    }
}

/// The allow list, and where connections come from.
impl Model {
    pub fn is_allowlisted(&self, address: Option<IpAddr>, peer: Option<usize>) -> bool {
        self.limits.allow.rules().iter().any(|rule| {
            let in_network = rule
                .network()
                .is_none_or(|network| address.is_some_and(|address| network.contains(&address)));
            let is_peer = match (rule.peer(), peer) {
                (Some(listed), Some(peer)) => *listed == peer_key(peer),
                // On trust, but only from a known network.
                (Some(_), None) => rule.network().is_some(),
                (None, _) => true,
            };
            in_network && is_peer
        })
    }

    fn counted_in(&self, network: IpNet, except: Option<usize>) -> u64 {
        let counted = self.conns.iter().enumerate().filter(|(nth, conn)| {
            let inside = conn.address.is_some_and(|address| network.contains(&address));
            conn.here && conn.counted && inside && Some(*nth) != except
        });
        counted.count() as u64
    }

    /// Why the address is not to have one more, be it one that it has already.
    pub fn by_subnet(&self, address: IpAddr, except: Option<usize>) -> Option<Row> {
        let subnets = &self.limits.subnets;
        let row = |prefix_len, reason, limit, in_use| Row {
            scope: Scope::Subnet,
            resource: Resource::ConnectionsInbound,
            reason,
            limit,
            in_use,
            requested: 1,
            priority: Priority::Critical,
            prefix_len: Some(prefix_len),
            has_fallback: false,
        };
        let over = |network: IpNet, limit| {
            let (count, length) = (self.counted_in(network, except), network.prefix_len());
            match limit {
                Limit::Max(max) if count >= max => Some(row(length, Reason::Limit, limit, count)),
                Limit::Blocked => Some(row(length, Reason::Blocked, limit, count)),
                _ => None,
            }
        };
        let inside = subnets.networks.iter().filter(|(network, _)| network.contains(&address));
        if let Some((network, limits)) = inside.max_by_key(|(network, _)| network.prefix_len()) {
            let too_many = over(*network, limits.connections);
            return too_many.or_else(|| {
                let burst = u64::from(limits.rate?.burst_size().get());
                let too_soon = !self.is_in_time(0, burst);
                let length = network.prefix_len();
                too_soon.then(|| row(length, Reason::Rate, Limit::Max(burst), burst))
            });
        }
        let lengths = if address.is_ipv4() { &subnets.ipv4 } else { &subnets.ipv6 };
        let mut longest_first = lengths.iter().rev();
        longest_first.find_map(|(length, limits)| {
            let network = IpNet::new(address, *length).expect("a length").trunc();
            over(network, limits.connections)
        })
    }

    /// The one rate there is, if it is in force and the address subject to it.
    fn rate(&self, address: IpAddr) -> Option<Rate> {
        let network: IpNet = PACED.parse().expect("a network");
        let limits = self.limits.subnets.networks.get(&network)?;
        limits.rate.filter(|_| network.contains(&address))
    }

    fn is_in_time(&self, purpose: usize, burst: u64) -> bool {
        self.due[purpose] <= self.now + (burst - 1) * INTERVAL.as_secs()
    }

    /// Spends one of a rate, unless there is none left. Whether there was.
    fn spend(&mut self, purpose: usize, burst: u64) -> bool {
        let in_time = self.is_in_time(purpose, burst);
        if in_time {
            self.due[purpose] = self.due[purpose].max(self.now) + INTERVAL.as_secs();
        }
        in_time
    }

    /// One more from there.
    pub fn spend_arrival(&mut self, address: IpAddr) {
        if let Some(rate) = self.rate(address) {
            self.spend(0, rate.burst_size().get().into());
        }
    }

    pub fn should_validate(&mut self, address: IpAddr) -> bool {
        let rate = self.rate(address);
        rate.is_some_and(|rate| !self.spend(1, (rate.burst_size().get() / 2).max(1).into()))
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        // A rate is forgotten with its network.
        if self.rate(PACED.parse::<IpNet>().expect("a network").addr()).is_none() {
            self.due = [0; 2];
        }
    }
}

/// Ends.
impl Model {
    /// A close takes what no thread touches.
    pub fn close(&mut self, conn: usize, is_revoked: impl Fn(usize) -> bool) {
        self.conns[conn].open = false;
        self.conns[conn].weight = 0;
        for nth in 0..self.items.len() {
            if self.items[nth].conn == conn && is_revoked(nth) {
                self.items[nth].charged = false;
            }
        }
    }

    /// Streams that are closed and hold nothing exist no more.
    pub fn reap_streams(&mut self) {
        let drained: Vec<_> = self.streams.iter().map(|s| self.of_stream(s.id) == 0).collect();
        let mut drained = drained.into_iter();
        self.streams.retain(|stream| {
            let drained = drained.next().expect("one for each");
            stream.here || !drained
        });
    }
}

pub fn stream_count(direction: Direction) -> Usage {
    let mut usage = Usage::default();
    match direction {
        Direction::Inbound => usage.streams_inbound = 1,
        Direction::Outbound => usage.streams_outbound = 1,
    }
    usage
}

pub fn memory(bytes: u64) -> Usage {
    let mut usage = Usage::default();
    usage.memory = bytes;
    usage
}
