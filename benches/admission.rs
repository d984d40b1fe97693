//! What it costs to admit a connection, bind it to its peer and end it, with every check on, beside
//! the least that anything can cost. Contenders take turns; prints, and judges nothing.
//!
//! ```text
//! cargo bench -p leasehold-benches --bench admission [-- [--rounds N] [--test]]
//! ```

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leasehold::{
    AllowList, ConnectionGuard, Governor, Limits, PeerKey, PrefixLimits, Rate, ScopeLimits,
    SubnetLimits,
};
use leasehold_benches::Work;
use leasehold_benches::turns::{self, Arguments, Rounds, Turns};

const ROUNDS: usize = 200;
/// Operations before each turn that nobody times.
const WARM_UP: u64 = 64;
/// Connections that are live all the time.
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;

/// One line of the table.
struct Contender {
    name: &'static str,
    /// At most so many times the floor. Reported, never enforced.
    target: Option<f64>,
    work: Work,
}

fn main() {
    let arguments = Arguments::read(ROUNDS);
    // A process with a single thread takes short cuts in its allocator that no server would see.
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    let contenders = contenders(if arguments.test { FEW } else { MANY });
    let rounds = Rounds::run(&arguments, contenders, WARM_UP, |contender, times| {
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

/// Limits that are large enough for everyone, but finite in every scope and for every subnet, with
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
    let burst = NonZeroU32::new(1_000_000).expect("not zero");
    let each = PrefixLimits::unlimited()
        .connections(10_000_000_u64)
        .rate(Rate::new(Duration::from_nanos(1), burst));
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
        bound(admission.try_admit().expect("limits are ample"), 1)
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
    let connect =
        |governor: &Governor| bound(governor.inbound().try_admit().expect("limits are ample"), 1);
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
        let admission = governor.inbound().remote(address);
        bound(admission.try_admit().expect("limits are ample"), random.u64(..))
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
    guard.bind_peer(key).expect("limits are ample");
    guard
}

fn print(rows: &[Turns<Contender>]) {
    let floor = rows[0].median();
    let row = |row: &Turns<Contender>| {
        let median = row.median();
        let ratio = median / floor;
        let verdict = |most| turns::verdict(format!("× ≤ {most}"), ratio <= most);
        [
            row.contender.name.to_owned(),
            format!("{median:.1}"),
            row.spread(),
            format!("{ratio:.1}"),
            row.contender.target.map_or_else(String::new, verdict),
        ]
    };
    let header = ["admit, bind, end", "ns", "p10 .. p90", "floor ×", "target"];
    turns::print(header, rows.iter().map(row));
}
