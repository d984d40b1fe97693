//! Memory that leases point to is neither moved nor freed under them, nor while a call still has a
//! reference to it. Small programs, for Miri to run:
//!
//! ```text
//! MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p leasehold --test aliasing
//! ```

mod common;

use common::{assert_nothing_left, usage};
use leasehold::{Direction, Governor};

const LEN: usize = 16 << 10;
const LARGE: usize = 100_000;

/// So many that the table of further magazines grows, which moves what owns them.
#[test]
fn leases_outlive_the_growth_of_what_keeps_their_magazines() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    drop((0..20).map(|_| guard.try_lease(LEN).unwrap()).collect::<Vec<_>>());
    let lease = |_| guard.handle().try_lease_owned(LEN).unwrap();
    drop((0..20).map(lease).collect::<Vec<_>>());
    assert_eq!(usage(&guard).leased_bytes, 0);
}

#[test]
fn the_return_of_a_large_lease_frees_its_magazine_after_the_last_use() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let borrowed = guard.try_lease(LARGE).unwrap();
    let owned = guard.handle().try_lease_owned(LARGE).unwrap();
    drop(borrowed);
    drop(owned);
    assert_eq!(usage(&guard).memory, 0);
}

#[test]
fn stragglers_keep_their_magazines() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = |len| guard.handle().try_lease_owned(len).unwrap();
    let mut revoked: Vec<_> = (0..20).map(|_| lease(LEN)).collect();
    let revoked_large = lease(LARGE);
    let pinned: Vec<_> = revoked.drain(..5).map(|lease| lease.into_pinned().unwrap()).collect();
    let [pinned_large, unpinned_large] = [(); 2].map(|()| lease(LARGE).into_pinned().unwrap());
    drop(guard);
    drop(unpinned_large.into_owned());
    drop((pinned, pinned_large));
    assert_nothing_left(&governor);
    drop((revoked, revoked_large));
}

#[test]
fn the_last_lease_outlives_all_else() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let mut owned = stream.try_lease_owned(LEN).unwrap();
    owned.pin().unwrap();
    let pinned = guard.handle().try_lease_owned(LEN).unwrap().into_pinned().unwrap();
    drop(guard.try_lease(LEN).unwrap());
    drop(guard);
    drop(governor);
    drop(stream);
    drop(owned);
    drop(pinned);
}
