//! Long random sequences of everything that can be done, compared after every step with a plain
//! model, a list of what each connection holds: every result with its numbers, and all that a snapshot shows.

mod found;
mod model;
mod op;

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use leasehold::{
    BindError, ConnectionGuard, ConnectionId, Direction, Governor, Lease, LeaseError, Limit,
    OwnedLease, Pinned, PinnedLease, Priority, RefusalRow, Reservation, Scope, ScopeLimits,
    ScopeRow, Snapshot, Source, StreamGuard, Usage,
};
use leasehold_heavy_tests::common::{HandClock, assert_adds_up, assert_nothing_left};
use model::{Ask, Conn, Counts, Item, Model, Place, Row, Stream, memory};
use op::{ADDRESSES, Arrival, CLASSES, LIMITS, Op, PEERS, PRIORITIES, SIZES, limits, op, peer_key};
use proptest::prelude::*;

fn block_bytes(len: usize) -> u64 {
    let class = [512, 2048, 4096, 16384, 65536].into_iter().find(|class| len <= *class);
    class.unwrap_or_else(|| len.next_multiple_of(4096)) as u64
}

fn address(nth: usize) -> IpAddr {
    ADDRESSES[nth].parse().expect("an address")
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

/// The real thing beside the model. What has the same index in a list here and in the model's is
/// the same.
struct World {
    governor: Governor,
    clock: HandClock,
    model: Model,
    /// Leaked while borrowed leases refer to it; `None` once dropped.
    guards: Vec<(ConnectionId, Option<*mut ConnectionGuard>)>,
    streams: Vec<(u64, StreamGuard)>,
    next_stream: u64,
    held: Vec<Held>,
    before: Snapshot,
}

impl World {
    fn new(index: usize) -> Self {
        let clock = HandClock::default();
        let governor = Governor::builder()
            .limits(limits(index))
            .fragmentation(1 << 40)
            .clock(clock.clone())
            .build()
            .expect("valid limits");
        let before = governor.snapshot();
        let model = Model { limits: limits(index), ..Model::default() };
        Self {
            governor,
            clock,
            model,
            guards: Vec::new(),
            streams: Vec::new(),
            next_stream: 0,
            held: Vec::new(),
            before,
        }
    }

    /// A connection whose guard lives, if there is one.
    fn conn(&self, pick: usize) -> Option<usize> {
        let here: Vec<_> =
            (0..self.guards.len()).filter(|nth| self.model.conns[*nth].here).collect();
        (!here.is_empty()).then(|| here[pick % here.len()])
    }

    fn guard(&self, conn: usize) -> &'static ConnectionGuard {
        let guard = self.guards[conn].1.expect("picked for its guard");
        // SAFETY: the box is freed by `drop_guard` only, which drops every borrowed lease first.
        unsafe { &*guard }
    }

    /// A stream whose guard lives: where its guard is, and where the model has it if the
    /// connection is here.
    fn stream(&self, pick: usize) -> Option<(usize, usize)> {
        let len = self.streams.len();
        let nth = (len > 0).then(|| pick % len)?;
        let id = self.streams[nth].0;
        let in_model = self.model.streams.iter().position(|stream| stream.id == id);
        Some((nth, in_model.expect("its guard lives")))
    }

    fn item(&self, pick: usize, fits: impl Fn(&Held) -> bool) -> Option<usize> {
        let fitting: Vec<_> = (0..self.held.len()).filter(|nth| fits(&self.held[*nth])).collect();
        (!fitting.is_empty()).then(|| fitting[pick % fitting.len()])
    }

    /// A connection may lease the blocks that it has, even above a limit that was lowered or only
    /// observes, and nothing is held against anybody then. The model does not know of them, so they
    /// are given back first.
    fn trim_above_limits(&self, conn: usize) {
        let snapshot = self.governor.snapshot();
        let own = snapshot.connections.iter().find(|row| row.id == self.guards[conn].0);
        let own = own.map_or(0, |row| row.usage.memory);
        let scopes = snapshot.scopes.iter();
        let scopes = scopes
            .map(|row| (row.usage.memory, row.limits.memory))
            .chain([(own, self.model.limits.connection.memory)]);
        let is_above = |(used, limit)| match limit {
            Limit::Unlimited => false,
            Limit::Blocked => used > 0,
            Limit::Max(max) => used > max,
        };
        if scopes.into_iter().any(is_above) && self.model.conns[conn].here {
            self.guard(conn).handle().trim();
        }
    }
}

/// Requests.
impl World {
    /// What the model says to a request for more. If the ordinary scopes refuse and the allow list
    /// helps, the connection has moved; but one that is refused all the same does not move.
    fn decide(
        &mut self,
        conn: usize,
        priority: Priority,
        asks: impl Fn(&Model) -> Vec<Ask>,
        more: &Usage,
    ) -> Result<(), Row> {
        let model = &mut self.model;
        if !model.conns[conn].open {
            return Ok(());
        }
        let mut verdict = model.verdict(&asks(model));
        let Conn { place, address, .. } = model.conns[conn];
        if let Err(row) = &mut verdict
            && matches!(row.scope, leasehold::Scope::System | leasehold::Scope::Transient)
            && model.is_allowlisted(address, place.peer)
        {
            row.has_fallback = true;
            // These are asked once, for all that the connection has and for what it asks for.
            let moved = model.ask_realm(conn, true, more, priority);
            let fits = model.verdict(&moved).is_ok();
            model.conns[conn].place.allowlisted = true;
            let mut stayed = asks(model);
            if fits && model.verdict(&stayed).is_ok() {
                model.conns[conn].counted = false;
                stayed.retain(|ask| moved.iter().all(|entered| entered.scope != ask.scope));
                model.note_observed(&moved);
                model.note_observed(&stayed);
                return Ok(());
            }
            model.conns[conn].place = place;
        }
        if verdict.is_ok() {
            let asks = asks(model);
            model.note_observed(&asks);
        }
        verdict
    }

    /// Whether the outcome of a request is what the model says, and whether it was granted.
    #[track_caller]
    fn judge<T>(
        &mut self,
        conn: usize,
        verdict: Result<(), Row>,
        outcome: Result<T, LeaseError>,
    ) -> Option<T> {
        if !self.model.conns[conn].open {
            assert_eq!(outcome.err(), Some(LeaseError::Closed), "the connection is closed");
            return None;
        }
        match (verdict, outcome) {
            (Ok(()), Ok(granted)) => Some(granted),
            (Ok(()), Err(error)) => panic!("refused without cause: {error}"),
            (Err(row), Err(error)) => {
                row.assert_told_by(error.refused().expect("the connection is open"));
                let never = row.never_fits() && !row.has_fallback;
                assert_eq!(matches!(error, LeaseError::NeverFits(_)), never, "{error}");
                self.model.note_refused(&row);
                None
            }
            (Err(row), Ok(_)) => panic!("granted beyond {row:?}"),
        }
    }

    fn add(&mut self, conn: usize, stream: Option<u64>, bytes: u64, held: Held) {
        let priority = Priority::Critical;
        self.model.items.push(Item { conn, stream, bytes, len: 0, charged: true, priority });
        self.held.push(held);
    }

    /// Asks for memory on a connection or a stream of it.
    fn take<T>(
        &mut self,
        conn: usize,
        stream: Option<u64>,
        bytes: u64,
        priority: Priority,
        take: impl FnOnce(&Self) -> Result<T, LeaseError>,
    ) -> Option<T> {
        let more = memory(bytes);
        self.trim_above_limits(conn);
        let asks = |model: &Model| model.ask_all(conn, stream, &more, priority);
        let verdict = self.decide(conn, priority, asks, &more);
        let outcome = take(self);
        self.judge(conn, verdict, outcome)
    }

    fn lease(&mut self, conn: usize, size: usize, priority: Priority) {
        let bytes = block_bytes(SIZES[size]);
        let lease = self.take(conn, None, bytes, priority, |world| match priority {
            Priority::Critical => world.guard(conn).try_lease(SIZES[size]),
            _ => world.guard(conn).request().priority(priority).try_lease(SIZES[size]),
        });
        if let Some(lease) = lease {
            assert_eq!(lease.capacity() as u64, bytes);
            self.add(conn, None, bytes, Held::Borrowed(lease));
        }
    }

    fn reserve(
        &mut self,
        conn: usize,
        stream: Option<(usize, u64)>,
        bytes: u64,
        priority: Priority,
    ) {
        let id = stream.map(|(_, id)| id);
        let reserved = self.take(conn, id, bytes, priority, |world| match stream {
            Some((nth, _)) => world.streams[nth].1.request().priority(priority).try_reserve(bytes),
            None => world.guard(conn).handle().request().priority(priority).try_reserve(bytes),
        });
        if let Some(reservation) = reserved {
            self.add(conn, id, bytes, Held::Reserved(reservation));
            self.model.items.last_mut().expect("just added").priority = priority;
        }
    }

    fn open_stream(&mut self, conn: usize, direction: Direction) {
        let more = model::stream_count(direction);
        let asks = |model: &Model| model.ask_stream(conn, direction);
        let verdict = self.decide(conn, Priority::Critical, asks, &more);
        let outcome = self.guard(conn).handle().try_open_stream(direction);
        if let Some(real) = self.judge(conn, verdict, outcome) {
            let id = self.next_stream;
            self.next_stream += 1;
            self.streams.push((id, real));
            let (here, class, in_own_class) = (true, None, false);
            self.model.streams.push(Stream { id, conn, direction, here, class, in_own_class });
        }
    }

    fn bind_class(&mut self, pick: usize, class: usize) {
        let Some((nth, in_model)) = self.stream(pick) else { return };
        let Stream { conn, class: had, in_own_class, .. } = self.model.streams[in_model];
        let outcome = self.streams[nth].1.bind_class(CLASSES[class]);
        if !self.model.conns[conn].open {
            assert_eq!(outcome, Err(BindError::Closed));
            return;
        }
        if had.is_some() || in_own_class {
            assert_eq!(outcome, Err(BindError::StreamAlreadyBound));
            return;
        }
        if self.model.conns[conn].place.class == Some(class) {
            assert_eq!(outcome, Ok(()));
            self.model.streams[in_model].in_own_class = true;
            return;
        }
        let asks = self.model.ask_bind_class(in_model, class);
        if self.judge_bind(self.model.verdict(&asks), outcome) {
            self.model.note_observed(&asks);
            self.model.streams[in_model].class = Some(class);
        }
    }

    #[track_caller]
    fn judge_bind(&mut self, verdict: Result<(), Row>, outcome: Result<(), BindError>) -> bool {
        match (verdict, outcome) {
            (Ok(()), Ok(())) => true,
            (Err(row), Err(BindError::Refused(refused))) => {
                row.assert_told_by(&refused);
                self.model.note_refused(&row);
                false
            }
            (verdict, outcome) => panic!("{verdict:?}, but {outcome:?}"),
        }
    }
}

/// Coming in, and moving.
impl World {
    fn admit(&mut self, arrival: Arrival) {
        let Arrival { direction, fd, peer, class, address: from, weight } = arrival;
        let from = from.map(address);
        let mut more = Model::counts_of_conn(direction, fd);
        more.memory = weight;
        let model = &self.model;
        let asks = |allowlisted| {
            let place = Place { allowlisted, peer, class };
            model.ask_conn(Usage::default(), place, &more)
        };
        let counting = from.filter(|_| direction == Direction::Inbound);
        let by_subnet = counting.and_then(|address| model.by_subnet(address, None));
        let observes_subnets = model.limits.observe.contains(leasehold::Scope::Subnet);
        let mut verdict = match by_subnet {
            Some(row) if !observes_subnets => Err(row),
            _ => model.verdict(&asks(false)),
        };
        let allowlisted = verdict.is_err()
            && model.is_allowlisted(from, peer)
            && model.verdict(&asks(true)).is_ok();
        if allowlisted {
            verdict = Ok(());
        }
        let asks = asks(allowlisted);

        let admission = match direction {
            Direction::Inbound => self.governor.inbound(),
            Direction::Outbound => self.governor.outbound(),
        };
        let admission = peer.into_iter().fold(admission, |a, peer| a.peer(PEERS[peer]));
        let admission = class.into_iter().fold(admission, |a, class| a.class(CLASSES[class]));
        let admission = from.into_iter().fold(admission, |a, from| a.remote(from));
        let admission = if fd { admission } else { admission.without_fd() };
        match (verdict, admission.weight(weight).try_admit()) {
            (Ok(()), Ok(guard)) => {
                self.guards.push((guard.handle().id(), Some(Box::into_raw(Box::new(guard)))));
                self.model.note_observed(&asks);
                let counted = counting.filter(|_| !allowlisted);
                if let Some(address) = counted {
                    self.model.note_observed_subnet(by_subnet);
                    self.model.spend_arrival(address);
                }
                self.model.admitted += 1;
                self.model.conns.push(Conn {
                    place: Place { allowlisted, peer, class },
                    here: true,
                    open: true,
                    direction,
                    fd,
                    weight,
                    address: from,
                    counted: counted.is_some(),
                });
            }
            (Err(row), Err(error)) => {
                row.assert_told_by(error.refused().expect("the names are short"));
                self.model.note_refused(&row);
            }
            (Ok(()), Err(error)) => panic!("refused without cause: {error}"),
            (Err(row), Ok(_)) => panic!("admitted beyond {row:?}"),
        }
    }

    fn bind(&mut self, nth: usize, peer: usize) {
        let outcome = self.guard(nth).handle().bind_peer(PEERS[peer]);
        let model = &self.model;
        let Conn { place, open, direction, address, counted, .. } = model.conns[nth];
        if !open {
            assert_eq!(outcome, Err(BindError::Closed));
            return;
        }
        if place.peer.is_some() {
            assert_eq!(outcome, Err(BindError::AlreadyBound));
            return;
        }
        // One that was let in on trust may turn out to be a peer that the allow list does not know.
        let allowlisted = place.allowlisted && model.is_allowlisted(address, Some(peer));
        let counting = address.filter(|_| {
            place.allowlisted != allowlisted && !counted && direction == Direction::Inbound
        });
        let by_subnet = counting.and_then(|address| model.by_subnet(address, None));
        let observes_subnets = model.limits.observe.contains(leasehold::Scope::Subnet);
        let asks = model.ask_bind(nth, peer, allowlisted);
        let verdict = match by_subnet {
            Some(row) if !observes_subnets => Err(row),
            _ => model.verdict(&asks),
        };
        if self.judge_bind(verdict, outcome) {
            let model = &mut self.model;
            model.note_observed(&asks);
            model.note_observed_subnet(by_subnet);
            model.conns[nth].place = Place { allowlisted, peer: Some(peer), ..place };
            if let Some(address) = counting {
                model.spend_arrival(address);
                model.conns[nth].counted = true;
            }
        }
    }

    fn rebind(&mut self, nth: usize, to: Option<usize>) {
        let to = to.map(address);
        let Conn { place, open, direction, .. } = self.model.conns[nth];
        let source = to.map_or(Source::opaque("a pipe").expect("a short name"), Source::from);
        let outcome = self.guard(nth).handle().rebind_source(source);
        if !open {
            assert_eq!(outcome, Err(BindError::Closed));
            return;
        }
        let model = &self.model;
        let counting = to.filter(|_| direction == Direction::Inbound);
        let mut by_subnet = counting.and_then(|address| model.by_subnet(address, Some(nth)));
        let observes_subnets = model.limits.observe.contains(leasehold::Scope::Subnet);
        let refused = by_subnet.filter(|_| !observes_subnets).map_or(Ok(()), Err);
        let is_covered = model.is_allowlisted(to, place.peer);
        let move_to =
            |allowlisted| model.ask_realm(nth, allowlisted, &Usage::default(), Priority::Critical);
        let (allowlisted, asks, verdict) = match place.allowlisted {
            true if is_covered => (true, Vec::new(), Ok(())),
            true => {
                let asks = move_to(false);
                let verdict = refused.and_then(|()| model.verdict(&asks));
                (false, asks, verdict)
            }
            false if refused.is_err() && is_covered && model.verdict(&move_to(true)).is_ok() => {
                (true, move_to(true), Ok(()))
            }
            false => (false, Vec::new(), refused),
        };
        if allowlisted {
            by_subnet = None;
        }
        if self.judge_bind(verdict, outcome) {
            let model = &mut self.model;
            model.note_observed(&asks);
            model.note_observed_subnet(by_subnet);
            let counted = counting.filter(|_| !allowlisted);
            if let Some(address) = counted {
                model.spend_arrival(address);
            }
            let conn = &mut model.conns[nth];
            conn.place.allowlisted = allowlisted;
            conn.counted = counted.is_some();
            conn.address = to;
        }
    }
}

/// What becomes of leases and reservations.
impl World {
    fn write(&mut self, pick: usize, len: usize) {
        let writable =
            |held: &Held| matches!(held, Held::Borrowed(_) | Held::Pin { .. } | Held::Pinned(_));
        let Some(nth) = self.item(pick, writable) else { return };
        let item = &mut self.model.items[nth];
        let buffer: &mut dyn BufMut = match &mut self.held[nth] {
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
        let Item { conn, stream, bytes, len, charged, .. } = self.model.items[nth];
        let smaller = block_bytes(len);
        let wants_copy = len > 0 && (len as u64) < bytes / 4 && smaller < bytes;
        let mut copies = wants_copy && self.model.conns[conn].open;
        if copies {
            self.trim_above_limits(conn);
            // Without a count of refusals: no caller asked for it.
            let more = memory(smaller);
            let asks = |model: &Model| model.ask_all(conn, stream, &more, Priority::Critical);
            copies = self.decide(conn, Priority::Critical, asks, &more).is_ok();
        }
        let detached = |world: &Self| {
            world.row(conn).map_or(0, |row: leasehold::ConnectionUsage| row.detached_bytes)
        };
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
            assert_eq!(detached(self) - before, became, "the block of {len} bytes from {bytes}");
        }
    }

    fn grow(&mut self, pick: usize) {
        let Some(nth) = self.item(pick, |held| matches!(held, Held::Borrowed(_))) else { return };
        let (conn, old) = (self.model.items[nth].conn, self.model.items[nth].bytes);
        // The next class, or twice as much beyond the largest.
        let larger = if old < 64 << 10 { old + 1 } else { 2 * old };
        let bytes = block_bytes(larger as usize);
        let more = memory(bytes);
        self.trim_above_limits(conn);
        let asks = |model: &Model| model.ask_all(conn, None, &more, Priority::Critical);
        let verdict = self.decide(conn, Priority::Critical, asks, &more);
        let Held::Borrowed(lease) = &mut self.held[nth] else { unreachable!() };
        let outcome = lease.grow();
        let (capacity, written) = (lease.capacity() as u64, lease.len());
        if self.judge(conn, verdict, outcome).is_some() {
            self.model.items[nth].bytes = bytes;
        }
        assert_eq!((capacity, written), (self.model.items[nth].bytes, self.model.items[nth].len));
    }

    fn resize(&mut self, pick: usize, bytes: u64) {
        let Some(nth) = self.item(pick, |held| matches!(held, Held::Reserved(_))) else { return };
        let Item { conn, stream, bytes: old, priority, .. } = self.model.items[nth];
        let is_over = stream.is_some_and(|id| self.model.streams.iter().all(|s| s.id != id));
        if is_over && bytes > old {
            // A stream that was closed and drained can have nothing more.
            let Held::Reserved(reservation) = &mut self.held[nth] else { unreachable!() };
            assert_eq!(reservation.resize(bytes), Err(LeaseError::Closed));
            assert_eq!(reservation.bytes(), old);
            return;
        }
        let verdict = match bytes.checked_sub(old) {
            Some(more) if more > 0 => {
                let more = memory(more);
                let asks = |model: &Model| model.ask_all(conn, stream, &more, priority);
                self.decide(conn, priority, asks, &more)
            }
            _ => Ok(()),
        };
        let Held::Reserved(reservation) = &mut self.held[nth] else { unreachable!() };
        let outcome = reservation.resize(bytes);
        let now = reservation.bytes();
        if self.judge(conn, verdict, outcome).is_some() {
            self.model.items[nth].bytes = bytes;
        }
        assert_eq!(now, self.model.items[nth].bytes);
    }

    /// Replaces what an item is, or removes it. It is the last one afterwards.
    fn change(&mut self, nth: usize, f: impl FnOnce(&mut Item, Held) -> Option<Held>) {
        let mut item = self.model.items.swap_remove(nth);
        let held = self.held.swap_remove(nth);
        if let Some(held) = f(&mut item, held) {
            self.model.items.push(item);
            self.held.push(held);
        }
    }

    fn drop_item(&mut self, nth: usize) {
        if let Held::Detached(clones) = &mut self.held[nth]
            && clones.len() > 1
        {
            clones.pop();
            return;
        }
        self.model.items.swap_remove(nth);
        if let Held::Pin { pin, lease } = self.held.swap_remove(nth) {
            drop(pin);
            // SAFETY: it came from `into_raw`, and its pin is gone.
            drop(unsafe { Box::from_raw(lease) });
        }
    }

    fn close_in_model(&mut self, conn: usize) {
        let Self { model, held, .. } = self;
        model.close(conn, |nth| matches!(held[nth], Held::Owned(_) | Held::Reserved(_)));
    }

    fn drop_guard(&mut self, conn: usize) {
        while let Some(nth) = (0..self.held.len()).find(|nth| {
            self.model.items[*nth].conn == conn && matches!(self.held[*nth], Held::Borrowed(_))
        }) {
            self.drop_item(nth);
        }
        let guard = self.guards[conn].1.take().expect("picked for its guard");
        // SAFETY: it came from `into_raw`, and nothing that borrows it is left.
        drop(unsafe { Box::from_raw(guard) });
        self.close_in_model(conn);
        self.model.conns[conn].here = false;
        while let Some(nth) = (0..self.held.len()).find(|nth| {
            self.model.items[*nth].conn == conn && matches!(self.held[*nth], Held::Forgotten)
        }) {
            self.model.items.swap_remove(nth);
            self.held.swap_remove(nth);
        }
    }

    fn row(&self, conn: usize) -> Option<leasehold::ConnectionUsage> {
        let id = self.guards[conn].0;
        let rows = self.governor.snapshot().connections;
        rows.into_iter().find(|row| row.id == id).map(|row| row.usage)
    }

    fn open(&self, item: usize) -> bool {
        self.model.conns[self.model.items[item].conn].open
    }
}

impl World {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit(arrival) => self.admit(arrival),
            Op::Bind { conn, peer } => {
                if let Some(conn) = self.conn(conn) {
                    self.bind(conn, peer);
                }
            }
            Op::Rebind { conn, address } => {
                if let Some(conn) = self.conn(conn) {
                    self.rebind(conn, address);
                }
            }
            Op::Lease { conn, size, priority } => {
                if let Some(conn) = self.conn(conn) {
                    self.lease(conn, size, PRIORITIES[priority]);
                }
            }
            Op::LeaseOwned { conn, size, priority } => {
                if let Some(conn) = self.conn(conn) {
                    let (bytes, priority) = (block_bytes(SIZES[size]), PRIORITIES[priority]);
                    let lease = self.take(conn, None, bytes, priority, |world| {
                        let handle = world.guard(conn).handle();
                        match priority {
                            Priority::Critical => handle.try_lease_owned(SIZES[size]),
                            _ => handle.request().priority(priority).try_lease_owned(SIZES[size]),
                        }
                    });
                    if let Some(lease) = lease {
                        self.add(conn, None, bytes, Held::Owned(Box::new(lease)));
                    }
                }
            }
            Op::LeaseAndReturn { conn, size, times } => {
                if let Some(conn) = self.conn(conn) {
                    let first = self.held.len();
                    for _ in 0..times {
                        self.lease(conn, size, Priority::Critical);
                    }
                    self.held.truncate(first);
                    self.model.items.truncate(first);
                }
            }
            Op::Reserve { conn, bytes, priority } => {
                if let Some(conn) = self.conn(conn) {
                    self.reserve(conn, None, bytes, PRIORITIES[priority]);
                }
            }
            Op::OpenStream { conn, direction } => {
                if let Some(conn) = self.conn(conn) {
                    self.open_stream(conn, direction);
                }
            }
            Op::BindClass { stream, class } => self.bind_class(stream, class),
            Op::StreamLease { stream, size, priority } => {
                if let Some((nth, in_model)) = self.stream(stream) {
                    let Stream { id, conn, .. } = self.model.streams[in_model];
                    let (bytes, priority) = (block_bytes(SIZES[size]), PRIORITIES[priority]);
                    let lease =
                        self.take(conn, Some(id), bytes, priority, |world| match priority {
                            Priority::Critical => world.streams[nth].1.try_lease_owned(SIZES[size]),
                            _ => world.streams[nth]
                                .1
                                .request()
                                .priority(priority)
                                .try_lease_owned(SIZES[size]),
                        });
                    if let Some(lease) = lease {
                        self.add(conn, Some(id), bytes, Held::Owned(Box::new(lease)));
                    }
                }
            }
            Op::StreamReserve { stream, bytes, priority } => {
                if let Some((nth, in_model)) = self.stream(stream) {
                    let Stream { id, conn, .. } = self.model.streams[in_model];
                    self.reserve(conn, Some((nth, id)), bytes, PRIORITIES[priority]);
                }
            }
            Op::CloseStream { stream } => {
                if let Some((nth, in_model)) = self.stream(stream) {
                    drop(self.streams.swap_remove(nth));
                    self.model.streams[in_model].here = false;
                }
            }
            Op::Write { item, len } => self.write(item, len),
            Op::Own { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Borrowed(_))) {
                    let open = self.open(nth);
                    self.change(nth, |item, held| {
                        let Held::Borrowed(lease) = held else { unreachable!() };
                        item.charged = open;
                        Some(Held::Owned(Box::new(lease.into_owned())))
                    });
                }
            }
            Op::Pin { item } => {
                if let Some(nth) = self.item(item, |held| matches!(held, Held::Owned(_))) {
                    let open = self.open(nth);
                    self.change(nth, |_, held| {
                        let Held::Owned(lease) = held else { unreachable!() };
                        let lease = Box::into_raw(lease);
                        // SAFETY: the box is freed only after the pin, by the thread that takes it apart.
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
                    let open = self.open(nth);
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
                    let open = self.open(nth);
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
                    && let Held::Detached(clones) = &mut self.held[nth]
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
                    self.guard(conn).handle().trim();
                    if let Ok(usage) = self.guard(conn).handle().usage() {
                        assert_eq!(usage.cached_bytes, 0);
                    }
                }
            }
            Op::Close { conn } => {
                if let Some(conn) = self.conn(conn) {
                    let closed = self.guard(conn).handle().close();
                    assert_eq!(closed.is_ok(), self.model.conns[conn].open);
                    self.close_in_model(conn);
                }
            }
            Op::DropGuard { conn } => {
                if let Some(conn) = self.conn(conn) {
                    self.drop_guard(conn);
                }
            }
            Op::SetLimits { limits: index } => {
                self.model.set_limits(limits(index));
                self.governor.set_limits(limits(index)).expect("valid limits");
            }
            Op::SetPeerLimits { peer, memory, connections } => {
                let limits = ScopeLimits::unlimited().memory(memory).connections(connections);
                let key = peer_key(peer);
                let before = self.governor.set_peer_limits(&key, limits);
                assert_eq!(before, self.model.limits.peers.insert(key, limits));
            }
            Op::RemovePeerLimits { peer } => {
                let key = peer_key(peer);
                let before = self.governor.remove_peer_limits(&key);
                assert_eq!(before, self.model.limits.peers.remove(&key));
            }
            Op::Wait { seconds } => {
                self.clock.turn(Duration::from_secs(seconds));
                self.model.now += seconds;
                self.governor.maintain();
            }
            Op::Validate { address: nth } => {
                let validate = self.governor.should_validate(address(nth));
                assert_eq!(validate, self.model.should_validate(address(nth)));
            }
        }
        self.model.reap_streams();
    }
}

/// The comparison.
impl World {
    /// Compares everything that can be seen with the model.
    fn compare(&mut self) {
        let snapshot = assert_adds_up(&self.governor);
        let model = &self.model;
        let rows: Vec<_> = self
            .guards
            .iter()
            .map(|(id, _)| snapshot.connections.iter().find(|row| row.id == *id))
            .collect();
        // Idle blocks are what the model does not know of. They are charged where their connection
        // is, and to no class of a stream.
        let idle = |mut usage: Usage, pick: &dyn Fn(&Conn) -> bool| {
            let here = rows.iter().zip(&model.conns).filter(|(_, conn)| pick(conn));
            usage.memory +=
                here.filter_map(|(row, _)| row.map(|row| row.usage.cached_bytes)).sum::<u64>();
            usage
        };
        for (allowlisted, system, transient) in [
            (false, Scope::System, Scope::Transient),
            (true, Scope::AllowlistedSystem, Scope::AllowlistedTransient),
        ] {
            let (system, transient) = (snapshot.scope(system), snapshot.scope(transient));
            let mine = |conn: &Conn| conn.place.allowlisted == allowlisted;
            let used = idle(model.of_system(allowlisted), &mine);
            assert_eq!(system.usage, used, "system, allow-listed: {allowlisted}");
            let unbound = |conn: &Conn| mine(conn) && conn.place.peer.is_none() && conn.here;
            let used = idle(model.of_transient(allowlisted), &unbound);
            assert_eq!(transient.usage, used, "transient, allow-listed: {allowlisted}");
        }
        for (nth, name) in PEERS.iter().enumerate() {
            let mine = |conn: &Conn| conn.place.peer == Some(nth);
            let used = idle(model.of(mine), &mine);
            let there = used != Usage::default();
            let key = peer_key(nth);
            let row = snapshot.rows(Scope::Peer).find(|row| row.peer.as_ref() == Some(&key));
            let limits = model.limits.of_peer(&key);
            assert_row(name, row, there, used, limits);
        }
        for (class, name) in CLASSES.iter().enumerate() {
            let mine = |conn: &Conn| conn.here && conn.place.class == Some(class);
            let there =
                model.conns.iter().any(mine) || model.classed_streams(class).next().is_some();
            let used = idle(model.of_class(class, None), &mine);
            let row = snapshot.rows(Scope::Class).find(|row| row.class.as_deref() == Some(*name));
            let limits = model.limits.of_class(name);
            assert_row(name, row, there, used, limits);
            for peer in 0..PEERS.len() {
                let is_peers = |conn: &Conn| conn.place.peer == Some(peer);
                let mine = |conn: &Conn| mine(conn) && is_peers(conn);
                let mut streams = model.classed_streams(class);
                let there = model.conns.iter().any(mine)
                    || streams.any(|stream| is_peers(&model.conns[stream.conn]));
                let used = idle(model.of_class(class, Some(peer)), &mine);
                let key = Some(peer_key(peer));
                let row = snapshot
                    .rows(Scope::ClassPeer)
                    .find(|row| row.class.as_deref() == Some(*name) && row.peer == key);
                let limits = model.limits.of_class_peer(name);
                assert_row(name, row, there, used, limits);
            }
        }
        for (nth, row) in rows.iter().enumerate() {
            self.compare_conn(nth, *row);
        }
        for (id, real) in &self.streams {
            assert_eq!(real.usage().memory, model.of_stream(*id));
        }
        assert_eq!(counts(&snapshot.refusals), model.refusals, "refusals");
        assert_eq!(counts(&snapshot.observed), model.observed, "observed");
        assert_eq!(snapshot.totals.admitted, model.admitted);
        assert_eq!(snapshot.totals.orphaned_bytes, model.of(|conn| !conn.here).memory);
        assert_eq!(self.governor.limits(), model.limits);
        self.assert_within_limits(&snapshot);
        self.before = snapshot;
    }

    fn compare_conn(&self, nth: usize, row: Option<&leasehold::ConnectionRow>) {
        let (conn, model) = (&self.model.conns[nth], self.model.of_conn(nth));
        let id = self.guards[nth].0;
        assert_eq!(row.is_some(), model != Usage::default(), "{id}");
        assert_eq!(self.governor.connection(id).is_ok(), conn.open);
        let Some(row) = row else { return };
        let bytes = |pick: &dyn Fn(&Held) -> bool| -> u64 {
            let items = self.model.items.iter().zip(&self.held);
            items
                .filter(|(item, held)| item.conn == nth && item.charged && pick(held))
                .map(|(item, _)| item.bytes)
                .sum()
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
        assert_eq!(usage.peer, conn.place.peer.map(peer_key));
        assert_eq!(row.source.as_ref().and_then(Source::ip), conn.address);
    }

    /// No scope rises above its limit. One may be above, if the limit was lowered.
    fn assert_within_limits(&self, now: &Snapshot) {
        let observe = self.model.limits.observe;
        for ScopeRow { scope, class, peer, usage, limits, .. } in &now.scopes {
            let max = match limits.memory {
                Limit::Unlimited => continue,
                Limit::Blocked => 0,
                Limit::Max(max) => max,
            };
            let mut before = self.before.rows(*scope);
            let before = before.find(|row| row.class == *class && row.peer == *peer);
            let before = before.map_or(0, |row| row.usage.memory);
            let now = usage.memory;
            let fine = now <= max.max(before) || observe.contains(*scope);
            assert!(fine, "{scope} rose to {now}, limit {max}, was {before}");
        }
    }

    fn end(mut self) {
        while let Some(conn) = self.conn(0) {
            self.drop_guard(conn);
            self.model.reap_streams();
            self.compare();
        }
        while !self.held.is_empty() {
            self.drop_item(0);
            self.model.reap_streams();
            self.compare();
        }
        self.streams.clear();
        assert_nothing_left(&self.governor);
        // No address counts anybody.
        self.model.set_limits(leasehold::Limits::unlimited());
        let each = leasehold::PrefixLimits::unlimited().connections(1);
        let subnets = leasehold::SubnetLimits::unlimited().ipv4(0, each).ipv6(0, each);
        self.governor.set_limits(leasehold::Limits::unlimited().subnets(subnets)).expect("valid");
        for nth in [0, 3] {
            let first = self.governor.inbound().remote(address(nth)).try_admit();
            drop(first.expect("nothing is counted"));
        }
    }
}

fn counts(rows: &[RefusalRow]) -> Counts {
    rows.iter().map(|row| ((row.scope, row.resource, row.reason), row.count)).collect()
}

#[track_caller]
fn assert_row(name: &str, row: Option<&ScopeRow>, there: bool, used: Usage, limits: &ScopeLimits) {
    assert_eq!(row.is_some(), there, "{name} is there while it is held");
    assert_eq!(row.map_or(Usage::default(), |row| row.usage), used, "{name}");
    assert!(row.is_none_or(|row| row.limits == *limits), "{name}");
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
