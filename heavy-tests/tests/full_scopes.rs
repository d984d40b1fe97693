//! Threads that each keep within their share of a scope that is full of idle blocks: no request
//! is ever refused, for there is always room.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BufMut;
use leasehold::{ConnectionGuard, Governor, Lease, LeaseError, Limits, Reservation, Scope};
use leasehold_heavy_tests::Dice;
use leasehold_heavy_tests::common::{KIB, assert_nothing_left, governor, scope};
use parking_lot::Mutex;

/// What each thread has out at most.
const SHARE: u64 = 128 * KIB;
const THREADS: u64 = 3;
const LASTS: Duration = Duration::from_secs(2);

fn room(limits: Limits) -> Limits {
    let memory = scope().memory(THREADS * SHARE);
    limits.system(memory).peer(memory).class("c", memory).class_peer("c", memory)
}

fn admit(governor: &Governor, dice: &mut Dice) -> ConnectionGuard {
    let admission = governor.inbound();
    let admission = if dice.roll(2) == 0 { admission.class("c") } else { admission };
    if dice.roll(3) == 0 {
        let guard = admission.try_admit().expect("room");
        if dice.roll(2) == 0 {
            drop(guard.try_lease(4000));
        }
        match guard.handle().bind_peer("p") {
            Ok(()) | Err(leasehold::BindError::Closed) => {}
            Err(error) => panic!("{error}"),
        }
        guard
    } else {
        admission.peer("p").try_admit().expect("room")
    }
}

/// Some requests on one connection, within the share.
fn work(guard: &ConnectionGuard, dice: &mut Dice) -> Result<(), LeaseError> {
    let mut leases: Vec<Lease<'_>> = Vec::new();
    let mut reservations: Vec<Reservation> = Vec::new();
    let mut left = SHARE;
    for _ in 0..dice.roll(20) {
        let len = [100_usize, 512, 2000, 4096, 16384, 60_000, 100_000][dice.roll(7) as usize];
        let bytes = [512, 2048, 4096, 16384, 65536].into_iter().find(|bytes| len <= *bytes);
        let bytes = bytes.unwrap_or(len.next_multiple_of(4096)) as u64;
        if left < bytes {
            continue;
        }
        match dice.roll(6) {
            0 => {
                reservations.push(guard.handle().try_reserve(bytes)?);
                left -= bytes;
            }
            1 => {
                let stream = guard.handle().try_open_stream(leasehold::Direction::Inbound)?;
                if dice.roll(2) == 0 {
                    match stream.bind_class("c") {
                        Ok(()) | Err(leasehold::BindError::Closed) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                drop(stream.try_lease_owned(len)?);
            }
            2 => drop(guard.handle().try_lease_owned(len)?),
            _ => {
                let mut lease = guard.try_lease(len)?;
                let pattern = dice.roll(256) as u8;
                lease.put_bytes(pattern, len);
                assert!(lease.iter().all(|byte| *byte == pattern));
                leases.push(lease);
                left -= bytes;
            }
        }
        if dice.roll(4) == 0 && !leases.is_empty() {
            let lease = leases.swap_remove(dice.roll(leases.len() as u64) as usize);
            drop(lease); // left is not raised: its size is not known here
        }
    }
    if dice.roll(30) == 0 {
        guard.handle().trim();
    }
    Ok(())
}

fn run(limits: Limits, each: usize, shared: bool, closer: bool, strict: bool) {
    let governor = governor(limits);
    let done = AtomicBool::new(false);
    let pools: Vec<Mutex<Vec<std::sync::Arc<ConnectionGuard>>>> =
        (0..THREADS).map(|_| Mutex::default()).collect();
    let mut dice = Dice(99);
    for nth in 0..THREADS as usize {
        for _ in 0..each {
            let guard = std::sync::Arc::new(admit(&governor, &mut dice));
            if shared {
                pools.iter().for_each(|pool| pool.lock().push(guard.clone()));
            } else {
                pools[nth].lock().push(guard);
            }
        }
    }
    thread::scope(|threads| {
        for (nth, pool) in pools.iter().enumerate() {
            let governor = &governor;
            let done = &done;
            threads.spawn(move || {
                let mut dice = Dice(nth as u64 * 7919 + 12345);
                let (mut requests, mut refused) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let at = dice.roll(each as u64) as usize;
                    let guard = pool.lock()[at].clone();
                    requests += 1;
                    match work(&guard, &mut dice) {
                        Ok(()) => {}
                        Err(LeaseError::Closed) => {
                            drop(guard);
                            let new = admit(governor, &mut dice).into();
                            let old = std::mem::replace(&mut pool.lock()[at], new);
                            drop(old);
                            continue;
                        }
                        Err(error) => refused.push(error),
                    }
                    if !shared && dice.roll(20) == 0 {
                        drop(guard);
                        let new = admit(governor, &mut dice).into();
                        let old = std::mem::replace(&mut pool.lock()[at], new);
                        drop(old);
                    }
                }
                assert!(!strict || refused.is_empty(), "of {requests} rounds: {refused:?}");
            });
        }
        let start = Instant::now();
        let mut dice = Dice(4711);
        while start.elapsed() < LASTS {
            if closer && dice.roll(10) == 0 {
                let connections = governor.connections();
                if let Some(handle) = connections.into_iter().nth(dice.roll(3) as usize) {
                    let _ = handle.close();
                }
            }
            if dice.roll(50) == 0 {
                governor.maintain();
            }
            let used = governor.snapshot().scope(Scope::System).usage.memory;
            assert!(used <= THREADS * SHARE, "{used}");
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    drop(pools);
    assert_nothing_left(&governor);
}

#[test]
fn connections_of_their_own() {
    run(room(Limits::unlimited()), 4, false, false, true);
}

#[test]
fn connections_of_their_own_that_are_closed() {
    run(room(Limits::unlimited()), 4, false, true, true);
}

#[test]
fn shared_connections() {
    run(room(Limits::unlimited()), 1, true, false, true);
}

#[test]
fn crowds() {
    run(room(Limits::unlimited()), 30, false, true, false);
}
