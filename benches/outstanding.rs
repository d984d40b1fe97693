//! Many leases of one connection at once, as HTTP/2, QUIC and every send queue have them.
//!
//! First in, first out: a connection holds so many leases, and each step returns the oldest and
//! takes a new one. Last in, first out: it takes so many and returns them in reverse; the figures
//! are for one of them. All contenders write and read the first byte of each buffer.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench outstanding [-- [--rounds N] [--json] [--test]]
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use leasehold_benches::floor::{self, touch_first};
use leasehold_benches::library::{self, ConnectionGuard, Lease};
use leasehold_benches::turns::{self, Arguments, Plan, Rounds};
use leasehold_benches::{BLOCK, Crew, Prepare, THREADS, Target, Work, World};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many leases a connection has at once.
const OUTSTANDING: [usize; 12] = [1, 2, 4, 8, 9, 16, 32, 64, 128, 256, 512, 1024];
const ROUNDS: usize = 60;

/// The order in which leases come back.
#[derive(Clone, Copy)]
enum Order {
    FirstInFirstOut,
    LastInFirstOut,
}

const ORDERS: [Order; 2] = [Order::FirstInFirstOut, Order::LastInFirstOut];

struct Contender {
    name: &'static str,
    target: Target,
    /// Prepares it for one thread.
    prepare: fn(&World, thread: usize, Order, outstanding: usize) -> Work,
}

/// The floor and the alternative first.
const CONTENDERS: [Contender; 4] = [
    Contender { name: "floor: two locked steps", target: Target::NONE, prepare: floor },
    Contender {
        name: "alternative: 2 Semaphores + BytesMut",
        target: Target::NONE,
        prepare: permits,
    },
    Contender {
        name: "lease",
        target: Target { floor: Some(6.5), speedup: Some([1.5, 3.0]) },
        prepare: lease,
    },
    Contender {
        name: "owned lease, pin",
        target: Target { floor: Some(9.0), speedup: Some([1.0, 2.5]) },
        prepare: owned,
    },
];

/// One line of a table.
struct Line {
    outstanding: usize,
    order: Order,
    threads: usize,
    /// Where in [`CONTENDERS`] its contender stands.
    index: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outstanding, order, threads, index } = *self;
        let (name, threads) = (CONTENDERS[index].name, turns::threads(threads));
        write!(f, "{outstanding} {order}: {name}, {threads}")
    }
}

fn main() {
    let arguments = Arguments::read();
    let all: Vec<_> = OUTSTANDING.iter().map(|&number| run(&arguments, number)).collect();
    println!(
        "{BLOCK} bytes, the first one touched; one connection a thread; for each number of leases {}",
        all[0]
    );
    for (at, order) in ORDERS.iter().enumerate() {
        for threads in 1..=THREADS {
            let rows = all.iter().flat_map(|rounds| {
                let mut chunks = rounds.turns.chunks(CONTENDERS.len());
                let turns = chunks.nth(at * THREADS + threads - 1).expect("one for each table");
                Target::rows(turns, threads, |line| {
                    let Contender { name, target, .. } = CONTENDERS[line.index];
                    (format!("{:>4}  {name}", line.outstanding), target)
                })
            });
            Target::print(&format!("{order}, {}", turns::threads(threads)), rows.collect());
        }
    }
}

/// All contenders with so many leases at once, in turn.
fn run(arguments: &Arguments, outstanding: usize) -> Rounds<Line> {
    let plan =
        Plan { rounds: ROUNDS, turn: Plan::TURN, warm_up: (4 * outstanding as u64).max(256) };
    let world = World::new();
    let prepare = |order, contender: &'static Contender| -> Prepare {
        let world = world.clone();
        Box::new(move |thread| (contender.prepare)(&world, thread, order, outstanding))
    };
    let crew = Crew::new(
        ORDERS.into_iter().flat_map(|order| CONTENDERS.iter().map(move |c| prepare(order, c))),
    );
    let lines = ORDERS.into_iter().flat_map(|order| {
        (1..=THREADS).flat_map(move |threads| {
            let line = move |index| Line { outstanding, order, threads, index };
            (0..CONTENDERS.len()).map(line)
        })
    });
    let maintain = || world.governor.maintain();
    Rounds::run(arguments, &plan, lines, maintain, |line, leases| {
        let contender = line.order as usize * CONTENDERS.len() + line.index;
        let leases_at_once = line.order.leases_at_once(outstanding);
        let times = leases.div_ceil(leases_at_once);
        crew.measure(contender, line.threads, times) / leases_at_once as f64
    })
}

impl Order {
    /// Work that takes leases with `lease` and returns them in this order.
    fn work<L: 'static>(self, outstanding: usize, lease: impl FnMut() -> L + 'static) -> Work {
        match self {
            Order::FirstInFirstOut => first_in_first_out(outstanding, lease),
            Order::LastInFirstOut => last_in_first_out(outstanding, lease),
        }
    }

    /// How many leases are taken when the work is done once.
    fn leases_at_once(self, outstanding: usize) -> u64 {
        match self {
            Order::FirstInFirstOut => 1,
            Order::LastInFirstOut => outstanding as u64,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::FirstInFirstOut => "FIFO",
            Order::LastInFirstOut => "LIFO",
        })
    }
}

fn first_in_first_out<L: 'static>(
    outstanding: usize,
    mut lease: impl FnMut() -> L + 'static,
) -> Work {
    let mut leases: Vec<Option<L>> = (0..outstanding).map(|_| Some(lease())).collect();
    let mut oldest = 0;
    Box::new(move |times| {
        for _ in 0..times {
            // An assignment alone would return the oldest only after the new one is there.
            leases[oldest] = None;
            leases[oldest] = Some(lease());
            oldest = if oldest + 1 == outstanding { 0 } else { oldest + 1 };
        }
    })
}

fn last_in_first_out<L: 'static>(
    outstanding: usize,
    mut lease: impl FnMut() -> L + 'static,
) -> Work {
    let mut leases = Vec::with_capacity(outstanding);
    Box::new(move |times| {
        for _ in 0..times {
            leases.extend((0..outstanding).map(|_| lease()));
            while let Some(last) = leases.pop() {
                drop(last);
            }
        }
    })
}

/// A connection that stays until the work is over, for leases that borrow from it. The guard itself
/// is leaked.
struct Connection(&'static ConnectionGuard);

impl Connection {
    fn open(world: &World, thread: usize) -> Self {
        Self(Box::leak(Box::new(world.connect(thread))))
    }

    /// By a method, for a closure that names the field would capture a copy of it, and this be
    /// dropped.
    #[inline(always)]
    fn guard(&self) -> &'static ConnectionGuard {
        self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        library::close(self.0);
    }
}

/// A unit of a line that is not shared.
struct Taken(&'static floor::Line);

impl Drop for Taken {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.give();
    }
}

/// Uses the blocks that leases have, in rotation, but never returns one.
fn floor(world: &World, thread: usize, order: Order, outstanding: usize) -> Work {
    let connection = Connection::open(world, thread);
    let lease = |_| library::lease(connection.guard(), BLOCK);
    let mut buffers: Vec<Lease<'static>> = (0..outstanding).map(lease).collect();
    let line: &floor::Line = Box::leak(Box::new(floor::Line::of(outstanding as u64)));
    let mut next = 0;
    order.work(outstanding, move || {
        let _connection = &connection;
        line.take();
        touch_first(&mut buffers[next]);
        next = if next + 1 == outstanding { 0 } else { next + 1 };
        Taken(line)
    })
}

/// A budget of the connection's and one of the node's.
fn permits(world: &World, _: usize, order: Order, outstanding: usize) -> Work {
    let budgets = [Arc::new(Semaphore::new(1 << 30)), world.semaphore.clone()];
    let buffers: Vec<_> = (0..outstanding).map(|_| BytesMut::with_capacity(BLOCK)).collect();
    // Above the buffers in the heap: an allocator that gives the top of its heap back to the system
    // would do so each time that all buffers are free, and that would be most of what is measured.
    let lid = BytesMut::with_capacity(BLOCK);
    drop(buffers);
    order.work(outstanding, move || {
        let _lid = &lid;
        let permits = budgets.each_ref().map(|budget| -> OwnedSemaphorePermit {
            budget.clone().try_acquire_many_owned(BLOCK as u32).expect("there are plenty")
        });
        let mut buffer = BytesMut::with_capacity(BLOCK);
        touch_first(&mut buffer);
        (permits, buffer)
    })
}

fn lease(world: &World, thread: usize, order: Order, outstanding: usize) -> Work {
    let connection = Connection::open(world, thread);
    order.work(outstanding, move || {
        let mut lease = library::lease(connection.guard(), BLOCK);
        touch_first(&mut lease);
        lease
    })
}

fn owned(world: &World, thread: usize, order: Order, outstanding: usize) -> Work {
    let connection = world.connect(thread);
    order.work(outstanding, move || {
        let mut lease = library::lease_owned(&connection, BLOCK);
        touch_first(&mut library::pin(&mut lease));
        lease
    })
}
