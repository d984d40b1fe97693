//! What it costs to admit a connection, bind it to its peer and end it, with every check on, beside
//! the least that anything can cost. Contenders take turns; prints, and judges nothing.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench admission [-- [--rounds N] [--json] [--test]]
//! ```

use std::fmt;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use leasehold_benches::Work;
use leasehold_benches::library::{
    self, AllowList, ConnectionGuard, Governor, Limits, PeerKey, PrefixLimits, ScopeLimits,
    SubnetLimits,
};
use leasehold_benches::turns::{self, Arguments, Plan, Rounds, Turns};

const PLAN: Plan = Plan { rounds: 200, turn: Plan::TURN, warm_up: 64 };
/// Connections that are live all the time.
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;

/// One line of the table.
struct Contender {
    name: &'static str,
    /// At most so many times the floor. Printed, never enforced.
    target: Option<f64>,
    work: Work,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn main() {
    let arguments = Arguments::read();
    // A process with a single thread takes short cuts in its allocator that no server would see.
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    let contenders = contenders(if arguments.test { FEW } else { MANY });
    let nothing = || ();
    let rounds = Rounds::run(&arguments, &PLAN, contenders, nothing, |contender, times| {
        let start = Instant::now();
        (contender.work)(times);
        start.elapsed().as_nanos() as f64 / times as f64
    });
    println!("{rounds}");
    print(&rounds.turns);
}

fn contenders(many: usize) -> Vec<Contender> {
    let contender = |name, target, work| Contender { name, target, work };
    vec![
        contender("floor: two locked steps", None, floor()),
        contender("hot peer, 1,000 live, all checks", Some(23.0), hot(limited(), None)),
        contender("the same with a class", None, hot(limited(), Some("public"))),
        contender("the same without an address", None, without_address(limited())),
        contender("hot peer, 1,000 live, unlimited", None, hot(Governor::unlimited(), None)),
        contender("random, 1,000,000 live, all checks", Some(80.0), random(limited(), many)),
        contender("random, 1,000,000 live, unlimited", None, random(Governor::unlimited(), many)),
    ]
}

/// Limits that are never exceeded, but finite in every scope and for every subnet, with
/// an allow list, networks and peers that have limits of their own.
fn limited() -> Governor {
    let all = || {
        ScopeLimits::unlimited()
            .memory(8 << 30)
            .connections(10_000_000)
            .connections_inbound(10_000_000)
            .connections_outbound(10_000_000)
            .streams(10_000_000)
            .streams_inbound(10_000_000)
            .streams_outbound(10_000_000)
            .fds(10_000_000)
    };
    let each =
        PrefixLimits::unlimited().connections(10_000_000_u64).rate(library::rate_of_a_billion());
    let mut allow = AllowList::new();
    let mut limits = Limits::unlimited();
    for number in 0..100 {
        allow = allow.network(format!("198.51.{number}.0/24").parse().expect("a network"));
        let peer = PeerKey::new(format!("own {number}")).expect("short");
        limits = limits.peer_override(peer, all());
    }
    let limits = limits
        .system(all())
        .transient(all())
        .peer(all())
        .connection(all())
        .stream(all())
        .class("public", all())
        .class_peer_default(all())
        .subnets(SubnetLimits::standard().ipv4(32, each))
        .allow(allow);
    Governor::new(limits).expect("the limits are valid")
}

/// Two uncontended locked steps on a line of one's own.
fn floor() -> Work {
    let word = AtomicU64::new(0);
    Box::new(move |times| {
        for _ in 0..times {
            black_box(&word).fetch_add(1, Ordering::AcqRel);
            black_box(&word).fetch_add(1, Ordering::AcqRel);
        }
    })
}

/// One peer at one address comes and goes, beside a thousand connections it already has.
fn hot(governor: Governor, class: Option<&'static str>) -> Work {
    let address = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 4000);
    let connect = move |governor: &Governor| {
        let admission = governor.inbound().remote(address);
        let admission = match class {
            Some(class) => admission.class(class),
            None => admission,
        };
        bound(library::admit(admission), 1)
    };
    let live: Vec<_> = (0..FEW).map(|_| connect(&governor)).collect();
    Box::new(move |times| {
        let _live = &live;
        for _ in 0..times {
            drop(black_box(connect(&governor)));
        }
    })
}

fn without_address(governor: Governor) -> Work {
    let connect = |governor: &Governor| bound(library::admit(governor.inbound()), 1);
    let live: Vec<_> = (0..FEW).map(|_| connect(&governor)).collect();
    Box::new(move |times| {
        let _live = &live;
        for _ in 0..times {
            drop(black_box(connect(&governor)));
        }
    })
}

/// Each time some connection ends, and one from another peer at another address comes.
fn random(governor: Governor, many: usize) -> Work {
    let mut random = fastrand::Rng::with_seed(1);
    let connect = |governor: &Governor, random: &mut fastrand::Rng| {
        let address = SocketAddr::new(Ipv4Addr::from_bits(random.u32(1 << 28..)).into(), 4000);
        bound(library::admit(governor.inbound().remote(address)), random.u64(..))
    };
    let mut live: Vec<_> = (0..many).map(|_| connect(&governor, &mut random)).collect();
    Box::new(move |times| {
        for _ in 0..times {
            let victim = random.usize(..live.len());
            live[victim] = connect(&governor, &mut random);
        }
    })
}

/// Bound to a peer whose key is as long as most.
fn bound(guard: ConnectionGuard, peer: u64) -> ConnectionGuard {
    let mut key = *b"12D3KooW................................";
    key[8..16].copy_from_slice(&peer.to_le_bytes());
    library::bind_peer(&guard, key);
    guard
}

fn print(rows: &[Turns<Contender>]) {
    let floor = rows[0].paces.median();
    let row = |row: &Turns<Contender>| {
        let median = row.paces.median();
        let ratio = median / floor;
        [
            row.contender.to_string(),
            format!("{median:.1}"),
            row.paces.spread(1),
            format!("{ratio:.1}"),
            row.contender.target.map_or_else(String::new, |most| turns::at_most(most, ratio)),
        ]
    };
    let header = ["admit, bind, end", "ns", "p10 .. p90", "floor ×", "target"];
    turns::print(header, rows.iter().map(row));
}
