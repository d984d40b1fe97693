//! What `ratios` and `lease` measure. Each contender does the same for its user: hands out 16 KiB, of
//! which the first and the last byte are written and read back, and takes them back.

use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use sharded_slab::{Clear, Pool};
use tokio::sync::Semaphore;

use crate::crew::{Prepare, Work};
use crate::floor::{Line, touch, touch_slice};
use crate::library::{self, ConnectionGuard, Governor, Limits, OwnedLease, ScopeLimits};
use crate::target::Target;

/// The size of every buffer, in bytes.
pub const BLOCK: usize = 16 << 10;
/// How many connections, or cache lines, each thread goes round.
pub const CONNECTIONS: usize = 64;
/// Blocks of one size in a connection's first magazine.
const MAGAZINE: usize = 8;
/// The listener that every connection comes in by.
const CLASS: &str = "bench";

/// One line of the table.
pub struct Contender {
    /// What it is called.
    pub name: &'static str,
    /// What it is meant to cost.
    pub target: Target,
    /// Prepares it for one thread.
    pub prepare: fn(&World, thread: usize) -> Work,
}

/// Everything that is measured, the floor and the alternative first.
pub const CONTENDERS: &[Contender] = &[
    Contender { name: "floor: two locked steps", target: Target::NONE, prepare: floor },
    Contender { name: "alternative: Semaphore + BytesMut", target: Target::NONE, prepare: permits },
    Contender {
        name: "lease",
        target: Target { floor: Some(2.2), speedup: Some([3.0, 7.0]) },
        prepare: lease,
    },
    Contender {
        name: "owned lease, pin",
        target: Target { floor: Some(5.0), speedup: None },
        prepare: owned,
    },
    Contender {
        name: "stream's lease, pin",
        target: Target { floor: Some(6.0), speedup: None },
        prepare: stream,
    },
    Contender {
        name: "lease, 8 others out",
        target: Target { floor: None, speedup: Some([0.5, 0.5]) },
        prepare: ninth,
    },
    Contender { name: "reserve", target: Target::NONE, prepare: reserve },
    Contender { name: "admit, bind", target: Target::NONE, prepare: admit },
    Contender { name: "vec![0; 16384], no budget", target: Target::NONE, prepare: zeroed },
    Contender { name: "sharded-slab Pool, no budget", target: Target::NONE, prepare: pooled },
    Contender { name: "floor, buffers untouched", target: Target::NONE, prepare: untouched },
];

/// All contenders, to be prepared in this world.
pub fn prepare_in(world: &World) -> impl Iterator<Item = Prepare> {
    CONTENDERS.iter().map(|contender| -> Prepare {
        let world = world.clone();
        Box::new(move |thread| (contender.prepare)(&world, thread))
    })
}

/// What the threads share.
#[derive(Clone)]
pub struct World {
    /// The governor of all connections.
    pub governor: Governor,
    /// The node's budget, as one would count it without the library.
    pub semaphore: Arc<Semaphore>,
    pool: Arc<Pool<Pooled>>,
}

impl World {
    /// Budgets that are never exceeded, but finite in every scope, so that all is charged and
    /// counted.
    pub fn new() -> Self {
        let all = |memory: u64| {
            ScopeLimits::unlimited()
                .memory(memory)
                .connections(100_000)
                .connections_inbound(100_000)
                .connections_outbound(100_000)
                .streams(100_000)
                .streams_inbound(100_000)
                .streams_outbound(100_000)
                .fds(100_000)
        };
        let limits = Limits::unlimited()
            .system(all(8 << 30))
            .transient(all(1 << 30))
            .class_default(all(4 << 30))
            .peer(all(2 << 30))
            .connection(all(512 << 20))
            .stream(all(1 << 20));
        Self {
            governor: Governor::new(limits).expect("the limits name no class"),
            semaphore: Arc::new(Semaphore::new(1 << 30)),
            pool: Arc::new(Pool::new()),
        }
    }

    /// Bytes leased and returned so far, by the governor's own count.
    pub fn counted(&self) -> (u64, u64) {
        let totals = self.governor.snapshot().totals;
        (totals.leased_bytes, totals.returned_bytes)
    }

    /// Connections of different threads have different peers.
    pub fn connect(&self, thread: usize) -> ConnectionGuard {
        let guard = library::admit(self.governor.inbound().class(CLASS));
        library::bind_peer(&guard, format!("peer {thread}"));
        guard
    }

    /// Goes round [`CONNECTIONS`] connections of one peer, with what `open` makes of each.
    fn rounds<T: 'static>(
        &self,
        thread: usize,
        open: impl Fn(ConnectionGuard) -> T,
        step: impl FnMut(&mut T) + 'static,
    ) -> Work {
        rounds(|_| open(self.connect(thread)), step)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Goes round [`CONNECTIONS`] places, and goes on where it stopped.
fn rounds<T: 'static>(
    place: impl FnMut(usize) -> T,
    mut step: impl FnMut(&mut T) + 'static,
) -> Work {
    let mut places: Box<[T; CONNECTIONS]> = (0..CONNECTIONS)
        .map(place)
        .collect::<Box<[T]>>()
        .try_into()
        .unwrap_or_else(|_| unreachable!("that many were made"));
    let mut at = 0;
    Box::new(move |times| {
        for _ in 0..times {
            step(&mut places[at % CONNECTIONS]);
            at += 1;
        }
    })
}

/// Does the same thing again and again.
fn repeat(mut step: impl FnMut() + 'static) -> Work {
    Box::new(move |times| (0..times).for_each(|_| step()))
}

fn floor(_: &World, _: usize) -> Work {
    let place = |_| (Line::of(1), vec![0; BLOCK]);
    rounds(place, |(line, block)| {
        line.take();
        touch_slice(block);
        line.give();
    })
}

fn untouched(_: &World, _: usize) -> Work {
    let place = |_| Line::of(1);
    rounds(place, |line| {
        line.take();
        line.give();
    })
}

fn permits(world: &World, _: usize) -> Work {
    let semaphore = world.semaphore.clone();
    repeat(move || {
        let permit = semaphore.clone().try_acquire_many_owned(BLOCK as u32);
        let _permit = permit.expect("there are plenty");
        touch(black_box(&mut BytesMut::with_capacity(BLOCK)));
    })
}

fn lease(world: &World, thread: usize) -> Work {
    world.rounds(thread, |guard| guard, |guard| touch(&mut library::lease(guard, BLOCK)))
}

fn owned(world: &World, thread: usize) -> Work {
    world.rounds(thread, |guard| guard, |guard| use_owned(library::lease_owned(guard, BLOCK)))
}

fn stream(world: &World, thread: usize) -> Work {
    let open = |guard: ConnectionGuard| (library::open_stream(&guard), guard);
    world.rounds(thread, open, |(stream, _)| use_owned(library::lease_on_stream(stream, BLOCK)))
}

#[inline(always)]
fn use_owned(mut lease: OwnedLease) {
    touch(&mut library::pin(&mut lease));
}

fn ninth(world: &World, thread: usize) -> Work {
    let open = |guard: ConnectionGuard| -> (Vec<OwnedLease>, ConnectionGuard) {
        ((0..MAGAZINE).map(|_| library::lease_owned(&guard, BLOCK)).collect(), guard)
    };
    world.rounds(thread, open, |(_, guard)| touch(&mut library::lease(guard, BLOCK)))
}

fn reserve(world: &World, thread: usize) -> Work {
    world.rounds(
        thread,
        |guard| guard,
        |guard| drop(black_box(library::reserve(guard, BLOCK as u64))),
    )
}

/// The peer has other connections, so its scope stays.
fn admit(world: &World, thread: usize) -> Work {
    let world = world.clone();
    let other = world.connect(thread);
    repeat(move || {
        let _other = &other;
        drop(black_box(world.connect(thread)));
    })
}

fn zeroed(_: &World, _: usize) -> Work {
    repeat(|| touch_slice(black_box(&mut vec![0; BLOCK])))
}

/// A buffer that keeps its memory while it rests in the pool.
struct Pooled(Box<[u8]>);

impl Default for Pooled {
    fn default() -> Self {
        Self(vec![0; BLOCK].into())
    }
}

impl Clear for Pooled {
    fn clear(&mut self) {}
}

fn pooled(world: &World, _: usize) -> Work {
    let pool = world.pool.clone();
    repeat(move || {
        let mut buffer = pool.create().expect("the pool is large");
        touch_slice(&mut buffer.0);
        let key = buffer.key();
        drop(buffer);
        pool.clear(key);
    })
}
