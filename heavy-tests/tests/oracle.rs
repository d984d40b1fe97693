//! Long random sequences of everything that can be done, compared after every step with a plain
//! model: a list of who holds what. The model has no blocks, no caches and no locks; a scope's use
//! is a sum over the list, and a request is refused if, and only if, that sum would exceed a limit.

#[path = "../../tests/common/mod.rs"]
mod common;

use bytes::{BufMut, Bytes};
use leasehold::{
    BindError, ConnectionGuard, Direction, Governor, Lease, LeaseError, Limit, Limits, OwnedLease,
    Pinned, PinnedLease, Refused, Reservation, Resource, Scope, ScopeLimits, Snapshot, StreamGuard,
    Usage,
};
use proptest::prelude::*;

/// Sizes asked for, in bytes: within every class, at its edges, and beyond all of them.
const SIZES: [usize; 9] = [0, 512, 513, 4096, 4097, 16384, 20_000, 65536, 70_000];
const PEERS: [&str; 2] = ["alice", "bob"];

fn block_bytes(len: usize) -> u64 {
    let class = [512, 2048, 4096, 16384, 65536].into_iter().find(|class| len <= *class);
    class.unwrap_or_else(|| len.next_multiple_of(4096)) as u64
}

#[derive(Clone, Debug)]
enum Op {
    Admit { inbound: bool, fd: bool, peer: Option<usize>, class: bool, weight: u64 },
    Bind { conn: usize, peer: usize },
    Lease { conn: usize, size: usize },
    LeaseOwned { conn: usize, size: usize },
    LeaseAndReturn { conn: usize, size: usize, times: usize },
    Reserve { conn: usize, bytes: u64 },
    OpenStream { conn: usize, inbound: bool },
    StreamLease { stream: usize, size: usize },
    StreamReserve { stream: usize, bytes: u64 },
    CloseStream { stream: usize },
    Write { item: usize, len: usize },
    Own { item: usize },
    Pin { item: usize },
    Unpin { item: usize },
    KeepPinned { item: usize },
    Freeze { item: usize },
    Clone { item: usize },
    Grow { item: usize },
    Resize { item: usize, bytes: u64 },
    Forget { item: usize },
    Drop { item: usize },
    Trim { conn: usize },
    Close { conn: usize },
    DropGuard { conn: usize },
    SetLimits { limits: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let nth = 0..64_usize;
    let size = 0..SIZES.len();
    let bytes = prop_oneof![0..3_000_u64, 30_000..90_000_u64];
    prop_oneof![
        3 => (any::<bool>(), any::<bool>(), proptest::option::of(0..2_usize), any::<bool>(),
              prop_oneof![3 => Just(0), 1 => 0..20_000_u64])
            .prop_map(|(inbound, fd, peer, class, weight)| {
                Op::Admit { inbound, fd, peer, class, weight }
            }),
        2 => (nth.clone(), 0..2_usize).prop_map(|(conn, peer)| Op::Bind { conn, peer }),
        6 => (nth.clone(), size.clone()).prop_map(|(conn, size)| Op::Lease { conn, size }),
        6 => (nth.clone(), size.clone()).prop_map(|(conn, size)| Op::LeaseOwned { conn, size }),
        3 => (nth.clone(), size.clone(), 1..12_usize)
            .prop_map(|(conn, size, times)| Op::LeaseAndReturn { conn, size, times }),
        3 => (nth.clone(), bytes.clone()).prop_map(|(conn, bytes)| Op::Reserve { conn, bytes }),
        2 => (nth.clone(), any::<bool>())
            .prop_map(|(conn, inbound)| Op::OpenStream { conn, inbound }),
        3 => (nth.clone(), size).prop_map(|(stream, size)| Op::StreamLease { stream, size }),
        1 => (nth.clone(), bytes.clone())
            .prop_map(|(stream, bytes)| Op::StreamReserve { stream, bytes }),
        1 => nth.clone().prop_map(|stream| Op::CloseStream { stream }),
        4 => (nth.clone(), 0..70_000_usize).prop_map(|(item, len)| Op::Write { item, len }),
        2 => nth.clone().prop_map(|item| Op::Own { item }),
        3 => nth.clone().prop_map(|item| Op::Pin { item }),
        2 => nth.clone().prop_map(|item| Op::Unpin { item }),
        2 => nth.clone().prop_map(|item| Op::KeepPinned { item }),
        3 => nth.clone().prop_map(|item| Op::Freeze { item }),
        1 => nth.clone().prop_map(|item| Op::Clone { item }),
        2 => nth.clone().prop_map(|item| Op::Grow { item }),
        2 => (nth.clone(), bytes).prop_map(|(item, bytes)| Op::Resize { item, bytes }),
        1 => nth.clone().prop_map(|item| Op::Forget { item }),
        8 => nth.clone().prop_map(|item| Op::Drop { item }),
        1 => nth.clone().prop_map(|conn| Op::Trim { conn }),
        1 => nth.clone().prop_map(|conn| Op::Close { conn }),
        2 => nth.prop_map(|conn| Op::DropGuard { conn }),
        1 => (0..LIMITS).prop_map(|limits| Op::SetLimits { limits }),
    ]
}

const LIMITS: usize = 8;

/// Limits to choose from: each level the narrowest in one of them, and two with all.
#[derive(Clone, Copy)]
struct Table {
    system: ScopeLimits,
    transient: ScopeLimits,
    peer: ScopeLimits,
    class: ScopeLimits,
    connection: ScopeLimits,
    stream: ScopeLimits,
}

fn table(index: usize) -> Table {
    let free = ScopeLimits::unlimited();
    let narrow = |memory: u64, count: u32| {
        free.memory(memory)
            .connections(u64::from(count))
            .streams(u64::from(count))
            .streams_inbound(u64::from(count) - 1)
    };
    let none = Table {
        system: free,
        transient: free,
        peer: free,
        class: free,
        connection: free,
        stream: free,
    };
    match index {
        0 => none,
        1 => Table { system: narrow(150_000, 3).fds(2), ..none },
        2 => Table { transient: narrow(90_000, 2), ..none },
        3 => Table { peer: narrow(90_000, 2).connections_outbound(1), ..none },
        4 => Table { class: narrow(90_000, 2), ..none },
        5 => Table { connection: narrow(40_000, 2), stream: free.memory(20_000), ..none },
        6 => Table {
            system: narrow(200_000, 4),
            transient: narrow(100_000, 3),
            peer: narrow(120_000, 3),
            class: narrow(110_000, 3),
            connection: narrow(80_000, 2),
            stream: free.memory(40_000),
        },
        _ => Table { system: free.memory(Limit::Blocked), ..none },
    }
}

impl Table {
    fn limits(self) -> Limits {
        Limits::unlimited()
            .system(self.system)
            .transient(self.transient)
            .peer(self.peer)
            .class("public", self.class)
            .connection(self.connection)
            .stream(self.stream)
    }
}

/// How something is held, and the real thing.
enum Held {
    Borrowed(Lease<'static>),
    Forgotten,
    Owned(Box<OwnedLease>),
    /// The pin is declared first, so that it drops first.
    Pin {
        pin: Pinned<'static>,
        lease: *mut OwnedLease,
    },
    Pinned(PinnedLease),
    Detached(Vec<Bytes>),
    Reserved(Reservation),
}

struct Item {
    conn: usize,
    stream: Option<u64>,
    bytes: u64,
    /// Bytes written to it.
    len: usize,
    /// Whether it is still charged: a close takes what nobody touches.
    charged: bool,
    held: Held,
}

struct Conn {
    /// Leaked while borrowed leases refer to it; `None` once dropped.
    guard: Option<*mut ConnectionGuard>,
    id: leasehold::ConnectionId,
    open: bool,
    peer: Option<usize>,
    class: bool,
    counts: Usage,
    /// Of the admission, until the close.
    weight: u64,
}

struct Stream {
    id: u64,
    conn: usize,
    inbound: bool,
    real: StreamGuard,
}

struct World {
    governor: Governor,
    table: Table,
    /// Limits were lowered at least once, so a scope may use more than its limit.
    lowered: bool,
    conns: Vec<Conn>,
    streams: Vec<Stream>,
    next_stream: u64,
    items: Vec<Item>,
    before: Snapshot,
}

type Verdict = Result<(), (Scope, Resource, Limit, u64, u64)>;

fn admits(limit: Limit, in_use: u64, more: u64) -> bool {
    more == 0
        || match limit {
            Limit::Unlimited => true,
            Limit::Blocked => false,
            Limit::Max(max) => in_use + more <= max,
        }
}

fn verdict(scope: Scope, limits: &ScopeLimits, used: &Usage, more: &Usage) -> Verdict {
    let (u, m) = (used, more);
    let rows = [
        (Resource::Memory, limits.memory, u.memory, m.memory),
        (Resource::Connections, limits.connections, u.connections(), m.connections()),
        (
            Resource::ConnectionsOutbound,
            limits.connections_outbound,
            u.connections_outbound.into(),
            m.connections_outbound.into(),
        ),
        (Resource::Streams, limits.streams, u.streams(), m.streams()),
        (
            Resource::StreamsInbound,
            limits.streams_inbound,
            u.streams_inbound.into(),
            m.streams_inbound.into(),
        ),
        (Resource::Fds, limits.fds, u.fds.into(), m.fds.into()),
    ];
    for (resource, limit, in_use, more) in rows {
        if !admits(limit, in_use, more) {
            return Err((scope, resource, limit, in_use, more));
        }
    }
    Ok(())
}

fn memory(bytes: u64) -> Usage {
    let mut usage = Usage::default();
    usage.memory = bytes;
    usage
}

fn sum(into: &mut Usage, more: &Usage) {
    into.memory += more.memory;
    into.connections_inbound += more.connections_inbound;
    into.connections_outbound += more.connections_outbound;
    into.streams_inbound += more.streams_inbound;
    into.streams_outbound += more.streams_outbound;
    into.fds += more.fds;
}

/// The model: sums over the list.
impl World {
    fn of_conn(&self, conn: usize) -> Usage {
        let Conn { guard, counts, weight, .. } = &self.conns[conn];
        let mut usage = if guard.is_some() { *counts } else { Usage::default() };
        usage.memory = *weight;
        let items = self.items.iter().filter(|item| item.conn == conn && item.charged);
        usage.memory += items.map(|item| item.bytes).sum::<u64>();
        if guard.is_some() {
            for stream in self.streams.iter().filter(|stream| stream.conn == conn) {
                if stream.inbound {
                    usage.streams_inbound += 1;
                } else {
                    usage.streams_outbound += 1;
                }
            }
        }
        usage
    }

    fn of(&self, pick: impl Fn(&Conn) -> bool) -> Usage {
        let mut usage = Usage::default();
        for conn in (0..self.conns.len()).filter(|conn| pick(&self.conns[*conn])) {
            sum(&mut usage, &self.of_conn(conn));
        }
        usage
    }

    fn of_stream(&self, stream: u64) -> u64 {
        let items = self.items.iter().filter(|item| item.stream == Some(stream));
        items.map(|item| item.bytes).sum()
    }

    fn may(&self, conn: usize, stream: Option<u64>, more: &Usage) -> Verdict {
        let table = &self.table;
        if let Some(stream) = stream {
            let used = memory(self.of_stream(stream));
            verdict(Scope::Stream, &table.stream, &used, more)?;
        }
        verdict(Scope::Connection, &table.connection, &self.of_conn(conn), more)?;
        self.may_above(self.conns[conn].peer, self.conns[conn].class, more)
    }

    fn may_above(&self, peer: Option<usize>, class: bool, more: &Usage) -> Verdict {
        let table = &self.table;
        match peer {
            Some(peer) => {
                let used = self.of(|conn| conn.peer == Some(peer));
                verdict(Scope::Peer, &table.peer, &used, more)?;
            }
            None => {
                let used = self.of(|conn| conn.peer.is_none() && conn.guard.is_some());
                verdict(Scope::Transient, &table.transient, &used, more)?;
            }
        }
        if class {
            verdict(Scope::Class, &table.class, &self.of(|conn| conn.class), more)?;
        }
        verdict(Scope::System, &table.system, &self.of(|_| true), more)
    }

    /// What a close takes: whatever nobody touches.
    fn close_in_model(&mut self, conn: usize) {
        self.conns[conn].open = false;
        self.conns[conn].weight = 0;
        for item in self.items.iter_mut().filter(|item| item.conn == conn) {
            if matches!(item.held, Held::Owned(_) | Held::Reserved(_)) {
                item.charged = false;
            }
        }
    }
}

/// The real thing beside it.
impl World {
    fn new(index: usize) -> Self {
        let table = table(index);
        let governor = Governor::builder()
            .limits(table.limits())
            .fragmentation(1 << 40)
            .build()
            .expect("valid limits");
        let before = governor.snapshot();
        Self {
            governor,
            table,
            lowered: false,
            conns: Vec::new(),
            streams: Vec::new(),
            next_stream: 0,
            items: Vec::new(),
            before,
        }
    }

    /// A connection whose guard lives, if there is one.
    fn conn(&self, pick: usize) -> Option<usize> {
        let alive: Vec<_> =
            (0..self.conns.len()).filter(|conn| self.conns[*conn].guard.is_some()).collect();
        (!alive.is_empty()).then(|| alive[pick % alive.len()])
    }

    fn guard(&self, conn: usize) -> &'static ConnectionGuard {
        let guard = self.conns[conn].guard.expect("picked for its guard");
        // SAFETY: the box is freed by `drop_guard` only, which drops every borrowed lease first.
        unsafe { &*guard }
    }

    fn item(&self, pick: usize, fits: impl Fn(&Held) -> bool) -> Option<usize> {
        let fitting: Vec<_> =
            (0..self.items.len()).filter(|item| fits(&self.items[*item].held)).collect();
        (!fitting.is_empty()).then(|| fitting[pick % fitting.len()])
    }

    /// Whether the outcome of a request is what the model says, and whether it was granted.
    #[track_caller]
    fn judge<T>(&self, conn: usize, may: Verdict, outcome: Result<T, LeaseError>) -> Option<T> {
        if !self.conns[conn].open {
            assert_eq!(outcome.err(), Some(LeaseError::Closed), "the connection is closed");
            return None;
        }
        match (may, outcome) {
            (Ok(()), Ok(granted)) => Some(granted),
            (Ok(()), Err(error)) => panic!("refused without cause: {error}"),
            (Err(row), Err(error)) => {
                let refused = error.refused().expect("the connection is open");
                let never = matches!(error, LeaseError::NeverFits(_));
                assert_tells(row, refused, never);
                None
            }
            (Err(row), Ok(granted)) => {
                // Above a lowered limit a connection may still use the blocks that it has.
                let now = self.governor.snapshot().system.usage.memory;
                let used_its_own = now <= self.before.system.usage.memory;
                let may = self.lowered && used_its_own && row.0 != Scope::Stream;
                assert!(may, "granted beyond {row:?}");
                Some(granted)
            }
        }
    }

    fn add(&mut self, conn: usize, stream: Option<u64>, bytes: u64, held: Held) {
        self.items.push(Item { conn, stream, bytes, len: 0, charged: true, held });
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit { inbound, fd, peer, class, weight } => {
                self.admit(inbound, fd, peer, class, weight);
            }
            Op::Bind { conn, peer } => {
                if let Some(conn) = self.conn(conn) {
                    self.bind(conn, peer);
                }
            }
            Op::Lease { conn, size } => {
                if let Some(conn) = self.conn(conn) {
                    let bytes = block_bytes(SIZES[size]);
                    let may = self.may(conn, None, &memory(bytes));
                    let outcome = self.guard(conn).try_lease(SIZES[size]);
                    if let Some(lease) = self.judge(conn, may, outcome) {
                        assert_eq!(lease.capacity() as u64, bytes);
                        self.add(conn, None, bytes, Held::Borrowed(lease));
                    }
                }
            }
            Op::LeaseOwned { conn, size } => {
                if let Some(conn) = self.conn(conn) {
                    let bytes = block_bytes(SIZES[size]);
                    let may = self.may(conn, None, &memory(bytes));
                    let outcome = self.guard(conn).handle().try_lease_owned(SIZES[size]);
                    if let Some(lease) = self.judge(conn, may, outcome) {
                        self.add(conn, None, bytes, Held::Owned(Box::new(lease)));
                    }
                }
            }
            Op::LeaseAndReturn { conn, size, times } => {
                if let Some(conn) = self.conn(conn) {
                    let bytes = block_bytes(SIZES[size]);
                    let first = self.items.len();
                    for _ in 0..times {
                        let may = self.may(conn, None, &memory(bytes));
                        let outcome = self.guard(conn).try_lease(SIZES[size]);
                        if let Some(lease) = self.judge(conn, may, outcome) {
                            self.add(conn, None, bytes, Held::Borrowed(lease));
                        }
                    }
                    self.items.truncate(first);
                }
            }
            Op::Reserve { conn, bytes } => {
                if let Some(conn) = self.conn(conn) {
                    let may = self.may(conn, None, &memory(bytes));
                    let outcome = self.guard(conn).try_reserve(bytes);
                    if let Some(reservation) = self.judge(conn, may, outcome) {
                        self.add(conn, None, bytes, Held::Reserved(reservation));
                    }
                }
            }
            Op::OpenStream { conn, inbound } => {
                if let Some(conn) = self.conn(conn) {
                    let mut more = Usage::default();
                    let direction = if inbound {
                        more.streams_inbound = 1;
                        Direction::Inbound
                    } else {
                        more.streams_outbound = 1;
                        Direction::Outbound
                    };
                    let may = self.may(conn, None, &more);
                    let outcome = self.guard(conn).try_open_stream(direction);
                    if let Some(real) = self.judge(conn, may, outcome) {
                        let id = self.next_stream;
                        self.next_stream += 1;
                        self.streams.push(Stream { id, conn, inbound, real });
                    }
                }
            }
            Op::StreamLease { stream, size } => {
                if let Some(nth) = pick(stream, self.streams.len()) {
                    let Stream { id, conn, ref real, .. } = self.streams[nth];
                    let bytes = block_bytes(SIZES[size]);
                    let may = self.may(conn, Some(id), &memory(bytes));
                    let outcome = real.try_lease_owned(SIZES[size]);
                    if let Some(lease) = self.judge(conn, may, outcome) {
                        self.add(conn, Some(id), bytes, Held::Owned(Box::new(lease)));
                    }
                }
            }
            Op::StreamReserve { stream, bytes } => {
                if let Some(nth) = pick(stream, self.streams.len()) {
                    let Stream { id, conn, ref real, .. } = self.streams[nth];
                    let may = self.may(conn, Some(id), &memory(bytes));
                    let outcome = real.try_reserve(bytes);
                    if let Some(reservation) = self.judge(conn, may, outcome) {
                        self.add(conn, Some(id), bytes, Held::Reserved(reservation));
                    }
                }
            }
            Op::CloseStream { stream } => {
                if let Some(nth) = pick(stream, self.streams.len()) {
                    drop(self.streams.swap_remove(nth));
                }
            }
            Op::Write { item, len } => self.write(item, len),
            Op::Own { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Borrowed(_))) {
                    let open = self.conns[self.items[nth].conn].open;
                    self.change(nth, |item, held| {
                        let Held::Borrowed(lease) = held else { unreachable!() };
                        item.charged = open;
                        Some(Held::Owned(Box::new(lease.into_owned())))
                    });
                }
            }
            Op::Pin { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Owned(_))) {
                    let open = self.conns[self.items[nth].conn].open;
                    self.change(nth, |_, held| {
                        let Held::Owned(lease) = held else { unreachable!() };
                        let lease = Box::into_raw(lease);
                        // SAFETY: the box is freed only after the pin, by whoever takes it apart.
                        match unsafe { (*lease).pin() } {
                            Ok(pin) => {
                                assert!(open, "pinned after the close");
                                Some(Held::Pin { pin, lease })
                            }
                            Err(_) => {
                                assert!(!open, "revoked without a close");
                                // SAFETY: it came from `into_raw` above, and there is no pin.
                                Some(Held::Owned(unsafe { Box::from_raw(lease) }))
                            }
                        }
                    });
                }
            }
            Op::Unpin { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Pin { .. })) {
                    let open = self.conns[self.items[nth].conn].open;
                    self.change(nth, |item, held| {
                        let Held::Pin { pin, lease } = held else { unreachable!() };
                        drop(pin);
                        item.charged = open;
                        // SAFETY: it came from `into_raw`, and its pin is gone.
                        Some(Held::Owned(unsafe { Box::from_raw(lease) }))
                    });
                }
            }
            Op::KeepPinned { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Owned(_))) {
                    let open = self.conns[self.items[nth].conn].open;
                    self.change(nth, |_, held| {
                        let Held::Owned(lease) = held else { unreachable!() };
                        let pinned = lease.into_pinned();
                        assert_eq!(pinned.is_ok(), open);
                        pinned.ok().map(Held::Pinned)
                    });
                }
            }
            Op::Freeze { item } => self.freeze(item),
            Op::Clone { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Detached(_)))
                    && let Held::Detached(clones) = &mut self.items[nth].held
                {
                    clones.push(clones[0].clone());
                }
            }
            Op::Grow { item } => self.grow(item),
            Op::Resize { item, bytes } => self.resize(item, bytes),
            Op::Forget { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Borrowed(_))) {
                    self.change(nth, |_, held| {
                        std::mem::forget(held);
                        Some(Held::Forgotten)
                    });
                }
            }
            Op::Drop { item } => {
                if let Some(nth) = self.item(item, |held| !matches!(held, Held::Forgotten)) {
                    self.drop_item(nth);
                }
            }
            Op::Trim { conn } => {
                if let Some(conn) = self.conn(conn) {
                    self.guard(conn).trim();
                    assert_eq!(self.guard(conn).usage().cached_bytes, 0);
                }
            }
            Op::Close { conn } => {
                if let Some(conn) = self.conn(conn) {
                    let closed = self.governor.close(self.conns[conn].id);
                    assert_eq!(closed.is_ok(), self.conns[conn].open);
                    self.close_in_model(conn);
                }
            }
            Op::DropGuard { conn } => {
                if let Some(conn) = self.conn(conn) {
                    self.drop_guard(conn);
                }
            }
            Op::SetLimits { limits } => {
                self.table = table(limits);
                self.lowered = true;
                self.governor.set_limits(self.table.limits()).unwrap();
            }
        }
    }

    fn admit(&mut self, inbound: bool, fd: bool, peer: Option<usize>, class: bool, weight: u64) {
        let mut counts = Usage::default();
        if inbound {
            counts.connections_inbound = 1;
        } else {
            counts.connections_outbound = 1;
        }
        counts.fds = fd.into();
        let mut more = counts;
        more.memory = weight;
        let connection = &self.table.connection;
        let may = verdict(Scope::Connection, connection, &Usage::default(), &more)
            .and_then(|()| self.may_above(peer, class, &more));

        let admission = if inbound { self.governor.inbound() } else { self.governor.outbound() };
        let admission = match peer {
            Some(peer) => admission.peer(PEERS[peer]),
            None => admission,
        };
        let admission = if class { admission.class("public") } else { admission };
        let admission = if fd { admission } else { admission.without_fd() };
        match (may, admission.weight(weight).try_admit()) {
            (Ok(()), Ok(guard)) => {
                let id = guard.id();
                let guard = Some(Box::into_raw(Box::new(guard)));
                self.conns.push(Conn { guard, id, open: true, peer, class, counts, weight });
            }
            (Err(row), Err(error)) => {
                let refused = error.refused().expect("the names are short");
                assert_tells(row, refused, false);
            }
            (Ok(()), Err(error)) => panic!("refused without cause: {error}"),
            (Err(row), Ok(_)) => panic!("admitted beyond {row:?}"),
        }
    }

    fn bind(&mut self, conn: usize, peer: usize) {
        let outcome = self.guard(conn).bind_peer(PEERS[peer]);
        if !self.conns[conn].open {
            assert_eq!(outcome, Err(BindError::Closed));
            return;
        }
        if self.conns[conn].peer.is_some() {
            assert_eq!(outcome, Err(BindError::AlreadyBound));
            return;
        }
        let used = self.of(|other| other.peer == Some(peer));
        match (verdict(Scope::Peer, &self.table.peer, &used, &self.of_conn(conn)), outcome) {
            (Ok(()), Ok(())) => self.conns[conn].peer = Some(peer),
            (Err(row), Err(BindError::Refused(refused))) => assert_tells(row, &refused, false),
            (may, outcome) => panic!("{may:?}, but {outcome:?}"),
        }
    }

    fn write(&mut self, pick: usize, len: usize) {
        let writable =
            |held: &Held| matches!(held, Held::Borrowed(_) | Held::Pin { .. } | Held::Pinned(_));
        let Some(nth) = self.item(pick, writable) else { return };
        let item = &mut self.items[nth];
        let buffer: &mut dyn BufMut = match &mut item.held {
            Held::Borrowed(lease) => lease,
            Held::Pin { pin, .. } => pin,
            Held::Pinned(lease) => lease,
            _ => unreachable!(),
        };
        let len = len.min(buffer.remaining_mut());
        buffer.put_bytes(item.conn as u8, len);
        item.len += len;
    }

    fn freeze(&mut self, pick: usize) {
        let freezable =
            |held: &Held| matches!(held, Held::Borrowed(_) | Held::Owned(_) | Held::Pinned(_));
        let Some(nth) = self.item(pick, freezable) else { return };
        let Item { conn, stream, bytes, len, charged, .. } = self.items[nth];
        let open = self.conns[conn].open;
        let smaller = block_bytes(len);
        let wants_copy = open && (len as u64) < bytes / 4 && smaller < bytes;
        let copies = wants_copy && self.may(conn, stream, &memory(smaller)).is_ok();
        let detached = |world: &Self| world.row(conn).map_or(0, |row| row.detached_bytes);
        let before = detached(self);
        let mut became = None;
        self.change(nth, |item, held| {
            let frozen = match held {
                Held::Borrowed(lease) => Ok(lease.freeze()),
                Held::Owned(lease) => lease.freeze(),
                Held::Pinned(lease) => Ok(lease.freeze()),
                _ => unreachable!(),
            };
            assert_eq!(frozen.is_ok(), charged, "only what was revoked does not freeze");
            let frozen = frozen.ok()?;
            assert_eq!(frozen, vec![conn as u8; len]);
            if len == 0 {
                return None;
            }
            if copies {
                item.bytes = smaller;
            }
            became = Some(item.bytes);
            Some(Held::Detached(vec![frozen]))
        });
        if let Some(became) = became {
            let now = detached(self) - before;
            if self.lowered && wants_copy && now == smaller {
                // Above a lowered limit the copy may use a block that the connection has.
                self.items.last_mut().expect("just changed").bytes = smaller;
            } else {
                assert_eq!(now, became, "the block of {len} bytes from {bytes}");
            }
        }
    }

    fn grow(&mut self, pick: usize) {
        let Some(nth) = self.item(pick, |held| matches!(held, Held::Borrowed(_))) else { return };
        let (conn, old) = (self.items[nth].conn, self.items[nth].bytes);
        // The next class, or twice as much beyond the largest.
        let larger = if old < 64 << 10 { old + 1 } else { 2 * old };
        let bytes = block_bytes(larger as usize);
        let may = self.may(conn, None, &memory(bytes));
        let Held::Borrowed(lease) = &mut self.items[nth].held else { unreachable!() };
        let outcome = lease.grow();
        let capacity = lease.capacity() as u64;
        let written = lease.len();
        if self.judge(conn, may, outcome).is_some() {
            self.items[nth].bytes = bytes;
        }
        assert_eq!((capacity, written), (self.items[nth].bytes, self.items[nth].len));
    }

    fn resize(&mut self, pick: usize, bytes: u64) {
        let Some(nth) = self.item(pick, |held| matches!(held, Held::Reserved(_))) else { return };
        let (conn, stream, old) = {
            let item = &self.items[nth];
            (item.conn, item.stream, item.bytes)
        };
        let may = match bytes.checked_sub(old) {
            Some(more) => self.may(conn, stream, &memory(more)),
            None => Ok(()),
        };
        let Held::Reserved(reservation) = &mut self.items[nth].held else { unreachable!() };
        let outcome = reservation.resize(bytes);
        let now = reservation.bytes();
        if self.judge(conn, may, outcome).is_some() {
            self.items[nth].bytes = bytes;
        }
        assert_eq!(now, self.items[nth].bytes);
    }

    /// Replaces what an item is, or removes it. It is the last one afterwards.
    fn change(&mut self, nth: usize, f: impl FnOnce(&mut Item, Held) -> Option<Held>) {
        let mut item = self.items.swap_remove(nth);
        let held = std::mem::replace(&mut item.held, Held::Forgotten);
        if let Some(held) = f(&mut item, held) {
            item.held = held;
            self.items.push(item);
        }
    }

    fn drop_item(&mut self, nth: usize) {
        if let Held::Detached(clones) = &mut self.items[nth].held
            && clones.len() > 1
        {
            clones.pop();
            return;
        }
        if let Held::Pin { pin, lease } = self.items.swap_remove(nth).held {
            drop(pin);
            // SAFETY: it came from `into_raw`, and its pin is gone.
            drop(unsafe { Box::from_raw(lease) });
        }
    }

    fn drop_guard(&mut self, conn: usize) {
        while let Some(nth) = (0..self.items.len()).find(|nth| {
            let item = &self.items[*nth];
            item.conn == conn && matches!(item.held, Held::Borrowed(_))
        }) {
            self.drop_item(nth);
        }
        let guard = self.conns[conn].guard.take().expect("picked for its guard");
        // SAFETY: it came from `into_raw`, and nothing that borrows it is left.
        drop(unsafe { Box::from_raw(guard) });
        self.close_in_model(conn);
        self.items.retain(|item| item.conn != conn || !matches!(item.held, Held::Forgotten));
    }

    fn row(&self, conn: usize) -> Option<leasehold::ConnectionUsage> {
        let id = self.conns[conn].id;
        let rows = self.governor.snapshot().connections;
        rows.into_iter().find(|row| row.id == id).map(|row| row.usage)
    }

    /// Compares everything that can be seen with the model.
    fn compare(&mut self) {
        let snapshot = common::assert_adds_up(&self.governor);
        let cached = |pick: &dyn Fn(&Conn) -> bool| -> u64 {
            let rows = snapshot.connections.iter();
            rows.filter(|row| self.conns.iter().any(|conn| conn.id == row.id && pick(conn)))
                .map(|row| row.usage.cached_bytes)
                .sum()
        };
        let with_cached = |pick: &dyn Fn(&Conn) -> bool| {
            let mut usage = self.of(pick);
            usage.memory += cached(pick);
            usage
        };
        assert_eq!(snapshot.system.usage, with_cached(&|_| true), "system");
        let transient = |conn: &Conn| conn.peer.is_none() && conn.guard.is_some();
        assert_eq!(snapshot.transient.usage, with_cached(&transient), "transient");
        for (nth, name) in PEERS.iter().enumerate() {
            let row = snapshot.peers.iter().find(|row| row.peer.as_bytes() == name.as_bytes());
            let model = with_cached(&|conn| conn.peer == Some(nth));
            assert_eq!(row.map_or(Usage::default(), |row| row.row.usage), model, "{name}");
            assert_eq!(row.is_some(), model != Usage::default(), "{name} is there while used");
        }
        let class = with_cached(&|conn| conn.class);
        let row = snapshot.classes.first();
        assert_eq!(row.map_or(Usage::default(), |row| row.row.usage), class, "class");

        for (nth, conn) in self.conns.iter().enumerate() {
            let model = self.of_conn(nth);
            let row = snapshot.connections.iter().find(|row| row.id == conn.id);
            assert_eq!(row.is_some(), model != Usage::default(), "{:?}", conn.id);
            assert_eq!(self.governor.connection(conn.id).is_ok(), conn.open);
            let Some(row) = row else { continue };
            let bytes = |pick: &dyn Fn(&Held) -> bool| -> u64 {
                let items = self.items.iter().filter(|item| item.conn == nth && item.charged);
                items.filter(|item| pick(&item.held)).map(|item| item.bytes).sum()
            };
            let detached = bytes(&|held| matches!(held, Held::Detached(_)));
            let reserved = bytes(&|held| matches!(held, Held::Reserved(_))) + conn.weight;
            let usage = &row.usage;
            assert_eq!(usage.detached_bytes, detached);
            assert_eq!(usage.reserved_bytes, reserved);
            assert_eq!(usage.leased_bytes, model.memory - detached - reserved);
            assert_eq!(row.closed, !conn.open);
            let streams = (usage.streams_inbound, usage.streams_outbound);
            assert_eq!(streams, (model.streams_inbound, model.streams_outbound));
        }
        for stream in self.streams.iter().filter(|stream| self.conns[stream.conn].open) {
            assert_eq!(stream.real.usage().memory, self.of_stream(stream.id));
        }
        let gone = self.of(|conn| conn.guard.is_none());
        assert_eq!(snapshot.totals.orphaned_bytes, gone.memory);
        self.assert_within_limits(&snapshot);
        self.before = snapshot;
    }

    /// No scope is above its limit, unless it was lowered; and then it does not rise.
    fn assert_within_limits(&self, now: &Snapshot) {
        let check = |scope: Scope, limit: Limit, now: u64, before: u64| {
            let max = match limit {
                Limit::Unlimited => return,
                Limit::Blocked => 0,
                Limit::Max(max) => max,
            };
            assert!(now <= max.max(before), "{scope} rose to {now}, limit {max}, was {before}");
            assert!(self.lowered || now <= max, "{scope} uses {now} of {max}");
        };
        let before = &self.before;
        let memory = |row: &leasehold::ScopeRow| row.usage.memory;
        let table = &self.table;
        check(Scope::System, table.system.memory, memory(&now.system), memory(&before.system));
        let transient = table.transient.memory;
        check(Scope::Transient, transient, memory(&now.transient), memory(&before.transient));
        for peer in &now.peers {
            let was = before.peers.iter().find(|row| row.peer == peer.peer);
            let was = was.map_or(0, |row| memory(&row.row));
            check(Scope::Peer, table.peer.memory, memory(&peer.row), was);
        }
        for class in &now.classes {
            let was = before.classes.first().map_or(0, |row| memory(&row.row));
            check(Scope::Class, table.class.memory, memory(&class.row), was);
        }
    }

    fn end(mut self) {
        while let Some(conn) = self.conn(0) {
            self.drop_guard(conn);
            self.compare();
        }
        while !self.items.is_empty() {
            self.drop_item(0);
            self.compare();
        }
        self.streams.clear();
        common::assert_nothing_left(&self.governor);
    }
}

/// Checks the numbers of a refusal. One that can never be granted looks at nobody's idle memory,
/// so its scope may use more than the model knows of.
#[track_caller]
fn assert_tells(row: (Scope, Resource, Limit, u64, u64), refused: &Refused, never: bool) {
    let (scope, resource, limit, in_use, more) = row;
    let told = (refused.scope(), refused.resource(), refused.limit(), refused.requested());
    assert_eq!(told, (scope, resource, limit, more), "{refused}");
    let can_never_be = match limit {
        Limit::Max(max) => more > max,
        Limit::Blocked => true,
        Limit::Unlimited => false,
    };
    if can_never_be {
        assert!(refused.in_use() >= in_use, "{refused}, in use {in_use}");
    } else {
        assert!(!never, "{refused} could be granted later");
        assert_eq!(refused.in_use(), in_use, "{refused}");
    }
}

fn pick(nth: usize, len: usize) -> Option<usize> {
    (len > 0).then(|| nth % len)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_does_what_a_list_of_holdings_says(
        limits in 0..LIMITS,
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(limits);
        for op in ops {
            world.apply(op);
            world.compare();
        }
        world.end();
    }
}
