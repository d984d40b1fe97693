//! What a lease costs while limits refuse others: at a scope that is full, and beside requests that
//! no idle memory could help.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench pressure [-- [--rounds N] [--json] [--test]]
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leasehold_benches::floor::touch_first;
use leasehold_benches::library::{
    self, ConnectionGuard, Governor, Limits, OwnedLease, Reservation, ScopeLimits,
};
use leasehold_benches::turns::{self, Arguments, Plan, Rounds, Turns};
use leasehold_benches::{BLOCK, Crew, Prepare, THREADS, Work};

fn main() {
    let arguments = Arguments::read();
    full_scope(&arguments);
    crowd(&arguments);
}

/// One line of a table.
struct Line {
    /// Where in the crew its contender stands.
    index: usize,
    name: String,
    threads: usize,
    /// At most so many times the first line of the table. Printed, never enforced.
    target: Option<f64>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.name, turns::threads(self.threads))
    }
}

fn print(rows: &[Turns<Line>]) {
    let first = rows[0].paces.median();
    let row = |row: &Turns<Line>| {
        let (line, median) = (&row.contender, row.paces.median());
        let ratio = median / first;
        [
            line.name.clone(),
            format!("{median:.1}"),
            row.paces.spread(1),
            format!("{ratio:.2}"),
            line.target.map_or_else(String::new, |most| turns::at_most(most, ratio)),
        ]
    };
    let title = turns::threads(rows[0].contender.threads);
    turns::print([&title, "ns", "p10 .. p90", "first ×", "target"], rows.iter().map(row));
}

fn connect(governor: &Governor, peer: &str) -> ConnectionGuard {
    let guard = library::admit(governor.inbound());
    library::bind_peer(&guard, peer);
    guard
}

/// Connections of other peers that fill the system's memory with their leases.
const FILLERS: usize = 64;
const LEASES_OF_FILLER: usize = 8;
/// A connection whose lease is refused asks once in so many leases of the connection that is timed.
const LEASES_PER_REFUSAL: u64 = 64;
/// Connections that take turns for the last block.
const IN_TURN: usize = 16;
/// How much more a full scope may make of a lease's time.
const FULL_SCOPE: f64 = 12.0;

/// A lease while the system's memory is used up, beside one while most of it is free.
fn full_scope(arguments: &Arguments) {
    let plan = Plan { rounds: 100, turn: Plan::TURN, warm_up: 256 };
    let mut governors = Vec::new();
    let mut lines = Vec::new();
    let mut contenders = Vec::new();
    for threads in 1..=THREADS {
        let mut contender = |name: String, target, room, work: fn(&Filled, usize) -> Work| {
            let filled = Filled::with_room_for(room);
            governors.push(filled.governor.clone());
            lines.push(Line { index: contenders.len(), name, threads, target });
            contenders.push(Box::new(move |thread| work(&filled, thread)) as Prepare);
        };
        let ample = 4 * FILLERS * LEASES_OF_FILLER;
        contender("lease, scope with room".to_owned(), None, ample, lease);
        contender("lease, full scope".to_owned(), Some(FULL_SCOPE), threads, lease);
        let name = format!("lease and 1/{LEASES_PER_REFUSAL} refusal, full scope");
        contender(name, Some(FULL_SCOPE), threads, lease_beside_refusals);
        let name = format!("lease, {IN_TURN} connections in turn for the last block");
        contender(name, Some(FULL_SCOPE), threads, lease_in_turn);
        contender("refusal, full scope".to_owned(), None, threads, refusal);
    }
    let contenders_each = lines.len() / THREADS;
    let crew = Crew::new(contenders);
    let maintain = || governors.iter().for_each(Governor::maintain);
    let rounds = Rounds::run(arguments, &plan, lines, maintain, |line, times| {
        crew.measure(line.index, line.threads, times)
    });
    println!("leases of {BLOCK} bytes; {rounds}");
    rounds.turns.chunks(contenders_each).for_each(print);
}

/// A governor whose memory other connections have leased, but for some blocks.
struct Filled {
    governor: Governor,
    _leases: Vec<OwnedLease>,
    _fillers: Vec<ConnectionGuard>,
}

impl Filled {
    fn with_room_for(blocks: usize) -> Self {
        let memory = (FILLERS * LEASES_OF_FILLER + blocks) * BLOCK;
        let system = ScopeLimits::unlimited().memory(memory as u64);
        let governor = Governor::new(Limits::unlimited().system(system)).expect("valid limits");
        let filler = |number| connect(&governor, &format!("filler {number}"));
        let fillers: Vec<_> = (0..FILLERS).map(filler).collect();
        let leases = fillers
            .iter()
            .flat_map(|guard| (0..LEASES_OF_FILLER).map(|_| library::lease_owned(guard, BLOCK)));
        Self { governor, _leases: leases.collect(), _fillers: fillers }
    }

    fn connect(&self, thread: usize) -> ConnectionGuard {
        connect(&self.governor, &format!("peer {thread}"))
    }
}

fn lease(filled: &Filled, thread: usize) -> Work {
    let guard = filled.connect(thread);
    Box::new(move |times| {
        for _ in 0..times {
            touch_first(&mut library::lease(&guard, BLOCK));
        }
    })
}

fn lease_beside_refusals(filled: &Filled, thread: usize) -> Work {
    let [guard, refused] = [0, 1].map(|_| filled.connect(thread));
    let mut leases = 0;
    Box::new(move |times| {
        for _ in 0..times {
            let mut lease = library::lease(&guard, BLOCK);
            touch_first(&mut lease);
            leases += 1;
            if leases % LEASES_PER_REFUSAL == 0 {
                library::lease_in_vain(&refused, TOO_MUCH);
            }
        }
    })
}

fn lease_in_turn(filled: &Filled, thread: usize) -> Work {
    let guards: [ConnectionGuard; IN_TURN] = std::array::from_fn(|_| filled.connect(thread));
    let mut turn = 0;
    Box::new(move |times| {
        for _ in 0..times {
            touch_first(&mut library::lease(&guards[turn], BLOCK));
            turn = (turn + 1) % IN_TURN;
        }
    })
}

fn refusal(filled: &Filled, thread: usize) -> Work {
    let guard = filled.connect(thread);
    Box::new(move |times| {
        for _ in 0..times {
            library::lease_in_vain(&guard, TOO_MUCH);
        }
    })
}

/// More than all idle blocks of the connections that are timed.
const TOO_MUCH: usize = 4 * BLOCK;
const _: () = assert!(TOO_MUCH > THREADS * BLOCK);

/// Connections that have an idle block each.
const CROWD: usize = 100_000;
const CROWD_IN_TEST: usize = 1_000;
const PEERS: usize = 1_000;
/// The size of their blocks, in bytes.
const SMALL: usize = 512;
/// Between two requests that cannot be granted.
const INTERVAL: Duration = Duration::from_millis(10);
/// How much slower such requests may make the leases of others.
const BESIDE_REQUESTS: f64 = 1.5;

/// Leases of a crowd, in which each connection has an idle block, with and without requests at low
/// priority that no idle block could help: what is reserved fills the priority's share.
fn crowd(arguments: &Arguments) {
    // Some ten requests in a turn.
    let plan = Plan { rounds: 30, turn: 10 * INTERVAL, warm_up: 64 };
    let size = if arguments.test { CROWD_IN_TEST } else { CROWD };
    // What requests do to a crowd may outlast them. So there are two crowds.
    let crowds = [(); 2].map(|()| Arc::new(Crowd::new(size)));
    let crew = Crew::new(crowds.iter().map(|crowd| -> Prepare {
        let crowd = crowd.clone();
        Box::new(move |thread| lease_in_crowd(crowd.clone(), thread))
    }));
    let lines = (1..=THREADS).flat_map(|threads| {
        let line =
            |index, name: &str, target| Line { index, name: name.to_owned(), threads, target };
        [
            line(0, "lease in a crowd", None),
            line(1, "lease in a crowd, beside requests in vain", Some(BESIDE_REQUESTS)),
        ]
    });
    // Without maintenance: it would take the idle blocks.
    let nothing = || ();
    let mut requests = 0;
    let rounds = Rounds::run(arguments, &plan, lines, nothing, |line, times| {
        let measure = || crew.measure(line.index, line.threads, times);
        match line.index {
            0 => measure(),
            crowd => {
                let (pace, asked) = crowds[crowd].while_asking(measure);
                requests += asked;
                pace
            }
        }
    });
    println!(
        "\nleases of {SMALL} bytes; {size} connections; {requests} requests in vain, one each \
         {INTERVAL:?} at most; {rounds}"
    );
    rounds.turns.chunks(crowds.len()).for_each(print);
}

struct Crowd {
    connections: Vec<ConnectionGuard>,
    /// Asks in vain.
    asking: ConnectionGuard,
    _reserved: Reservation,
    _reserving: ConnectionGuard,
}

impl Crowd {
    fn new(size: usize) -> Self {
        const MEMORY: u64 = 1 << 30;
        let system = ScopeLimits::unlimited().memory(MEMORY);
        let governor = Governor::new(Limits::unlimited().system(system)).expect("valid limits");
        let connections: Vec<_> = (0..size)
            .map(|number| connect(&governor, &format!("peer {}", number % PEERS)))
            .collect();
        for guard in &connections {
            drop(library::lease(guard, SMALL));
        }
        let [asking, reserving] = ["asking", "reserving"].map(|peer| connect(&governor, peer));
        let reserved = library::reserve(&reserving, MEMORY / 2);
        Self { connections, asking, _reserved: reserved, _reserving: reserving }
    }

    /// Does `work` while another thread makes a request in each interval, and returns how many those
    /// were too.
    fn while_asking<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (start, mut asked) = (Instant::now(), 0);
                while !over.load(Ordering::Relaxed) {
                    library::reserve_low_in_vain(&self.asking);
                    asked += 1;
                    thread::park_timeout((INTERVAL * asked).saturating_sub(start.elapsed()));
                }
                u64::from(asked)
            });
            let done = work();
            over.store(true, Ordering::Relaxed);
            asking.thread().unpark();
            (done, asking.join().expect("a request in vain is refused"))
        })
    }
}

/// Each thread goes round a part of the connections, in an order that no cache foresees.
fn lease_in_crowd(crowd: Arc<Crowd>, thread: usize) -> Work {
    const STEP: usize = 31_337;
    let part = crowd.connections.len() / THREADS;
    let mut at = 0;
    Box::new(move |times| {
        for _ in 0..times {
            let guard = &crowd.connections[thread * part + at];
            touch_first(&mut library::lease(guard, SMALL));
            at = (at + STEP) % part;
        }
    })
}
