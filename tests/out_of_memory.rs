//! When the system has no memory left, requests are refused: nothing aborts the process, and all that
//! was taken is given back.
//!
//! Only an admission and the start of a stream may abort, by their own `Arc`; the tests make those
//! first.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::process::{Command, Output};
use std::task::{Context, Waker};

use common::{MIB, assert_adds_up, assert_nothing_left, governor, scope};
use leasehold::future::Revocation;
use leasehold::{
    AllowList, BindError, ConnectionGuard, Direction, Governor, LeaseError, Limits, OwnedLease,
    Reason, Reservation, StreamGuard,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Says to a child of this test, which is the same program, how many MiB it may map.
const ROOM_MIB: &str = "LEASEHOLD_TEST_ROOM_MIB";
/// Says to it what to lease, in bytes; if nothing, it does everything that a connection can.
const LEN: &str = "LEASEHOLD_TEST_LEN";

/// What each child leases, if it can.
const WANTED: u64 = 24 * MIB;
/// With so much room each child gets all it wants, and below it gets less: in steps of 1 MiB.
const ENOUGH_MIB: u64 = 48;

/// The address space of this process, in bytes.
fn mapped() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    pages * page_size::get() as u64
}

/// The lease, unless it was refused for want of memory, the only reason there may be.
#[track_caller]
fn granted<T>(asked: Result<T, LeaseError>) -> Option<T> {
    match asked {
        Ok(granted) => Some(granted),
        Err(error) => {
            let reason = error.refused().map(|refused| refused.reason());
            assert_eq!(reason, Some(Reason::OutOfMemory), "{error}");
            None
        }
    }
}

/// Leases `len` bytes again and again, in each way, until it has all it wants or is refused; with
/// `room` to map. Returns whether it was refused.
fn lease_all(guard: &ConnectionGuard, stream: &StreamGuard, len: usize, room: u64) -> bool {
    // What the test itself needs, before there is little room.
    let most = WANTED as usize / len + 1;
    let (mut borrowed, mut owned) = (Vec::with_capacity(most), Vec::with_capacity(most));
    let (mut bytes, mut refused) = (0, false);
    within(room, || {
        while bytes < WANTED as usize && !refused {
            let lease = granted(guard.try_lease(len));
            let on_stream = granted(stream.try_lease_owned(len));
            let elsewhere = granted(guard.handle().try_lease_owned(len));
            refused = lease.is_none() || on_stream.is_none() || elsewhere.is_none();
            borrowed.extend(lease);
            owned.extend(on_stream);
            owned.extend(elsewhere);
            bytes += 3 * len;
        }
    });
    refused
}

/// Limits what this process may map to what it has and `room`, for as long as `work` takes.
fn within<T>(room: u64, work: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::As);
    let limit = Rlimit { current: mapped().checked_add(room).or(before.current), ..before };
    setrlimit(Resource::As, limit).unwrap();
    let done = work();
    setrlimit(Resource::As, before).unwrap();
    done
}

/// What one connection of many asks for, and what of it was granted.
struct Crowded {
    guard: ConnectionGuard,
    stream: StreamGuard,
    revoked: [Revocation; 3],
    class: String,
    leases: Vec<OwnedLease>,
    reservations: Vec<Reservation>,
    is_bound: [bool; 2],
}

impl Crowded {
    const MOST_LEASES: usize = 2 * 12 + 1;

    fn new(governor: &Governor, nth: usize) -> Self {
        let guard = governor.inbound().try_admit().unwrap();
        Self {
            stream: guard.handle().try_open_stream(Direction::Outbound).unwrap(),
            revoked: [(); 3].map(|()| guard.handle().revoked()),
            guard,
            class: format!("class {}", nth % 50),
            // What the test itself needs, before there is little room.
            leases: Vec::with_capacity(Self::MOST_LEASES),
            reservations: Vec::with_capacity(2),
            is_bound: [false; 2],
        }
    }

    /// Asks for everything that it has not got. Returns whether it has all of it now.
    fn ask(&mut self) -> bool {
        let Self { guard, stream, revoked, class, leases, reservations, is_bound } = self;
        let handle = guard.handle();
        let mut context = Context::from_waker(Waker::noop());
        assert!(revoked.iter_mut().all(|one| Pin::new(one).poll(&mut context).is_pending()));
        let [is_peer_bound, is_class_bound] = is_bound;
        *is_peer_bound = *is_peer_bound || bound(handle.bind_peer(class.as_bytes()));
        *is_class_bound = *is_class_bound || bound(stream.bind_class(class));
        while leases.len() < Self::MOST_LEASES {
            let lease = match leases.len() {
                0..12 => stream.try_lease_owned(512),
                12..24 => handle.try_lease_owned(4096),
                _ => handle.try_lease_owned(100_000),
            };
            let Some(lease) = granted(lease) else { break };
            leases.push(lease);
        }
        while reservations.len() < 2 {
            let Some(reservation) = granted(stream.try_reserve(MIB)) else { break };
            reservations.push(reservation);
        }
        *is_bound == [true; 2] && leases.len() == Self::MOST_LEASES && reservations.len() == 2
    }
}

#[track_caller]
fn bound(asked: Result<(), BindError>) -> bool {
    let Err(error) = asked else { return true };
    let reason = error.refused().map(|refused| refused.reason());
    assert_eq!(reason, Some(Reason::OutOfMemory), "{error}");
    false
}

/// Waits until the thread of the harness does nothing but wait for this test. Before that it needs
/// memory, and would abort.
fn wait_for_the_harness() {
    let stat = format!("/proc/self/task/{}/stat", std::process::id());
    loop {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let (_, state) = stat.rsplit_once(')').unwrap();
        if state.trim_start().starts_with('S') {
            return;
        }
        std::thread::yield_now();
    }
}

/// Takes what the allocator can still give, for good.
fn exhaust() {
    for size in (4..=20).rev().map(|bits| 1 << bits) {
        let mut some = Vec::<u8>::new();
        while some.try_reserve_exact(size).is_ok() {
            std::mem::forget(std::mem::take(&mut some));
        }
    }
}

/// Has many connections do everything with `room` to map. Returns whether anything was refused.
fn do_everything(governor: &Governor, room: u64) -> bool {
    let mut crowd: Vec<_> = (0..200).map(|nth| Crowded::new(governor, nth)).collect();
    let granted = within(room, || {
        let asked = crowd.iter_mut().map(Crowded::ask);
        asked.filter(|all| *all).count()
    });
    assert_adds_up(governor);
    // What was refused for want of memory is granted when there is some.
    let half = crowd.len() / 2;
    assert!(crowd[..half].iter_mut().all(Crowded::ask));
    assert_adds_up(governor);
    within(0, || {
        exhaust();
        for one in &mut crowd {
            one.ask();
            one.leases.truncate(13);
            one.guard.handle().trim();
        }
        // Those that end leave pinned leases behind.
        for Crowded { guard, stream, leases, .. } in crowd.drain(..half) {
            let pinned = leases.into_iter().find_map(|lease| lease.into_pinned().ok());
            drop((guard, pinned, stream));
        }
    });
    assert!(crowd.iter_mut().all(Crowded::ask));
    assert_adds_up(governor);
    granted < 2 * half
}

/// Does nothing but in a child of the tests below.
#[test]
fn child() {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (Some(room), Some(len)) = (variable(ROOM_MIB), variable(LEN)) else { return };
    wait_for_the_harness();
    let governor = Governor::unlimited();
    if len == 0 {
        let refused = do_everything(&governor, room * MIB);
        assert_nothing_left(&governor);
        println!("{}", if refused { "refused" } else { "granted" });
        return;
    }
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Outbound).unwrap();
    let refused = lease_all(&guard, &stream, len as usize, room * MIB);
    guard.handle().trim();
    assert_adds_up(&governor);
    // What was refused for want of memory is granted when there is some.
    assert!(!lease_all(&guard, &stream, len as usize, u64::MAX));
    drop((stream, guard));
    assert_nothing_left(&governor);
    println!("{}", if refused { "refused" } else { "granted" });
}

fn run(room_mib: u64, len: usize) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(ROOM_MIB, room_mib.to_string()).env(LEN, len.to_string());
    // glibc gives each thread an allocator with 64 MiB of address space in advance; with this one
    // small allocations fail as well.
    command.env("MALLOC_ARENA_MAX", "1");
    command.output().unwrap()
}

/// Runs a child with each room, from none to enough. Each ends well; those with little room were
/// refused something, and those with enough nothing.
#[track_caller]
fn from_little_to_enough(len: usize) {
    let mut failures = Vec::new();
    let mut granted_from = None;
    for room_mib in 0..=ENOUGH_MIB {
        let output = run(room_mib, len);
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            failures.push(format!("{room_mib} MiB: {}: {}", output.status, error.trim()));
        } else if text.contains("granted") {
            granted_from.get_or_insert(room_mib);
        } else {
            assert!(text.contains("refused"), "{text}");
        }
    }
    println!("leases of {len} bytes: all granted from {granted_from:?} MiB on");
    assert!(
        failures.is_empty(),
        "{} of {} ended badly, the first at {}",
        failures.len(),
        ENOUGH_MIB + 1,
        failures[0]
    );
    assert!(granted_from.is_some_and(|room| room > 0), "all granted from {granted_from:?} MiB on");
}

#[test]
fn blocks_of_512_bytes_are_refused_and_nothing_aborts() {
    from_little_to_enough(512);
}

#[test]
fn blocks_of_16_kib_are_refused_and_nothing_aborts() {
    from_little_to_enough(16 << 10);
}

#[test]
fn large_leases_are_refused_and_nothing_aborts() {
    from_little_to_enough(100_000);
}

#[test]
fn everything_that_a_connection_can_do_is_refused_and_nothing_aborts() {
    from_little_to_enough(0);
}

/// No length is so large that the sum of it and what is in use is not a number: also of what is in
/// use of the other system, which no limit of this one counts.
#[test]
fn the_longest_lease_is_refused_beside_a_large_one() {
    let allow = AllowList::new().network("192.0.2.0/24".parse().unwrap());
    let limits = Limits::unlimited().system(scope().connections(1)).allow(allow);
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let listed = governor.inbound().remote(IpAddr::from([192, 0, 2, 1])).try_admit().unwrap();
    for beside in [&guard, &listed] {
        let _large = beside.try_lease(1 << 20).unwrap();
        for len in [usize::MAX, usize::MAX - 4095, isize::MAX as usize, isize::MAX as usize - 4095]
        {
            let borrowed = guard.try_lease(len).unwrap_err();
            let owned = guard.handle().try_lease_owned(len).unwrap_err();
            let reserved = beside.handle().try_reserve(u64::MAX).unwrap_err();
            for error in [borrowed, owned, reserved] {
                assert!(matches!(error, LeaseError::Refused(_)), "{error:?}");
                // No limit is in the way, and none is named.
                assert_eq!(error.refused().unwrap().reason(), Reason::OutOfMemory);
                assert!(!error.to_string().contains("limit"), "{error}");
            }
        }
        assert_eq!(assert_adds_up(&governor).arena.large_bytes, MIB);
    }
}
