//! What is measured. Each contender does the same for its user: hands out 16 KiB, of which the
//! first and the last byte are written and read back, and takes them back.

use std::hint::black_box;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, BytesMut};
use leasehold::{
    ConnectionGuard, Direction, Governor, Limits, OwnedLease, ScopeLimits, StreamGuard,
};
use sharded_slab::{Clear, Pool};
use tokio::sync::Semaphore;

/// The size of every buffer, in bytes.
pub const BLOCK: usize = 16 << 10;
/// How many connections, or cache lines, each thread goes round.
pub const CONNECTIONS: usize = 64;
/// Blocks of one size that a connection hands out without a lock.
const LOCK_FREE: usize = 8;
/// The listener that every connection comes in by.
const CLASS: &str = "bench";

/// Does something so many times.
pub type Work = Box<dyn FnMut(u64)>;

/// One line of the table.
pub struct Contender {
    /// What it is called.
    pub name: &'static str,
    /// What it is meant to cost.
    pub target: Target,
    /// Prepares it for one thread.
    pub prepare: fn(&World, thread: usize) -> Work,
}

/// What a contender is meant to cost. Reported, never enforced.
#[derive(Clone, Copy)]
pub struct Target {
    /// At most so many times the floor.
    pub floor: Option<f64>,
    /// At least so many times as fast as the alternative: on one thread, on two.
    pub speedup: Option<[f64; 2]>,
}

impl Target {
    const NONE: Self = Self { floor: None, speedup: None };
}

/// Where in [`CONTENDERS`] the floor stands.
pub const FLOOR: usize = 0;
/// Where in [`CONTENDERS`] the alternative stands.
pub const ALTERNATIVE: usize = 1;

/// Everything that is measured.
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

/// What the threads share.
#[derive(Clone)]
pub struct World {
    governor: Governor,
    semaphore: Arc<Semaphore>,
    pool: Arc<Pool<Pooled>>,
}

impl World {
    /// Budgets that are large enough for everyone, but finite in every scope, so that all is
    /// charged and counted.
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
            .connection(all(16 << 20))
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
    fn connect(&self, peer: &str) -> ConnectionGuard {
        let guard = self.governor.inbound().class(CLASS).try_admit().expect("limits are ample");
        guard.bind_peer(peer).expect("limits are ample");
        guard
    }

    /// Goes round [`CONNECTIONS`] connections of one peer, with what `open` makes of each.
    fn rounds<T: 'static>(
        &self,
        thread: usize,
        open: impl Fn(ConnectionGuard) -> T,
        step: impl FnMut(&mut T) + 'static,
    ) -> Work {
        let peer = peer(thread);
        rounds(|_| open(self.connect(&peer)), step)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn peer(thread: usize) -> String {
    format!("peer {thread}")
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

/// Writes the first and the last byte of a buffer as its user would, and reads them back.
#[inline(always)]
fn touch(buffer: &mut (impl BufMut + Deref<Target = [u8]>)) {
    buffer.put_u8(1);
    read(&buffer[0]);
    let rest = buffer.chunk_mut();
    let last = rest.len() - 1;
    rest.write_byte(last, 2);
    // SAFETY: within `rest`, and written just now.
    read(unsafe { &*rest.as_mut_ptr().add(last) });
}

/// As [`touch`], for what is initialised.
#[inline(always)]
fn touch_slice(buffer: &mut [u8]) {
    let last = buffer.len() - 1;
    for at in [0, last] {
        buffer[at] = 1;
        read(&buffer[at]);
    }
}

/// Loads a byte from memory, even if the compiler knows what was stored there.
#[inline(always)]
fn read(byte: &u8) {
    // SAFETY: a reference is valid for reads.
    unsafe { ptr::read_volatile(byte) };
}

/// A word on a cache line of its own.
#[repr(align(64))]
struct Line(AtomicU64);

impl Line {
    fn full() -> Self {
        Self(AtomicU64::new(1))
    }

    /// What nobody can do without who takes something and gives it back while others may look: a
    /// compare-exchange and an addition.
    #[inline(always)]
    fn take_and_give(&self, between: impl FnOnce()) {
        let word = self.0.load(Ordering::Relaxed);
        let taken =
            self.0.compare_exchange(word, word - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        assert!(taken, "the line has one user");
        between();
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

fn floor(_: &World, _: usize) -> Work {
    let place = |_| (Line::full(), vec![0; BLOCK]);
    rounds(place, |(line, block)| line.take_and_give(|| touch_slice(block)))
}

fn untouched(_: &World, _: usize) -> Work {
    rounds(|_| Line::full(), |line| line.take_and_give(|| ()))
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
    world.rounds(
        thread,
        |guard| guard,
        |guard| touch(&mut guard.try_lease(BLOCK).expect("limits are ample")),
    )
}

fn owned(world: &World, thread: usize) -> Work {
    world.rounds(
        thread,
        |guard| guard,
        |guard| use_owned(guard.try_lease_owned(BLOCK).expect("limits are ample")),
    )
}

fn stream(world: &World, thread: usize) -> Work {
    let open = |guard: ConnectionGuard| -> (StreamGuard, ConnectionGuard) {
        (guard.try_open_stream(Direction::Inbound).expect("limits are ample"), guard)
    };
    world.rounds(thread, open, |(stream, _)| {
        use_owned(stream.try_lease_owned(BLOCK).expect("limits are ample"));
    })
}

#[inline(always)]
fn use_owned(mut lease: OwnedLease) {
    touch(&mut lease.pin().expect("the connection is open"));
}

fn ninth(world: &World, thread: usize) -> Work {
    let open = |guard: ConnectionGuard| -> (Vec<OwnedLease>, ConnectionGuard) {
        let others = || guard.try_lease_owned(BLOCK).expect("limits are ample");
        ((0..LOCK_FREE).map(|_| others()).collect(), guard)
    };
    world.rounds(thread, open, |(_, guard)| {
        touch(&mut guard.try_lease(BLOCK).expect("limits are ample"));
    })
}

fn reserve(world: &World, thread: usize) -> Work {
    world.rounds(
        thread,
        |guard| guard,
        |guard| drop(black_box(guard.try_reserve(BLOCK as u64).expect("limits are ample"))),
    )
}

/// The peer has other connections, so its scope stays.
fn admit(world: &World, thread: usize) -> Work {
    let (world, peer) = (world.clone(), peer(thread));
    let _others = world.connect(&peer);
    repeat(move || {
        let _others = &_others;
        drop(black_box(world.connect(&peer)));
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
