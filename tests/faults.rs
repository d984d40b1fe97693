//! Faults on purpose come where they were asked for, and leave nothing behind.
#![cfg(feature = "testing")]

mod common;

use common::assert_adds_up;
use leasehold::{ConnectionGuard, Direction, Faults, Governor, LeaseError, Reason, Revoked, Scope};

fn governor(faults: Faults) -> Governor {
    Governor::builder().faults(faults).build().unwrap()
}

/// Six requests, of every kind; which of them was refused, if one was.
fn serve(governor: &Governor) -> Result<(), usize> {
    let guard = governor.inbound().try_admit().map_err(|_| 0_usize)?;
    let lease = guard.try_lease(512).map_err(|_| 1_usize)?;
    drop(lease);
    // Again, where a block would lie idle without faults.
    drop(guard.try_lease(512).map_err(|_| 2_usize)?);
    let _reservation = guard.handle().try_reserve(100).map_err(|_| 3_usize)?;
    let _stream = guard.handle().try_open_stream(Direction::Inbound).map_err(|_| 4_usize)?;
    guard.handle().bind_peer("alice").map_err(|_| 5_usize)
}

#[test]
fn a_loop_over_seeds_refuses_every_request_once() {
    for seed in 0..6 {
        let governor = governor(Faults::seeded(seed).refuse_every(6));
        assert_eq!(serve(&governor), Err(seed as usize));
        governor.assert_quiescent();
        assert_eq!(assert_adds_up(&governor).totals.refused, 1);
    }
    let governor = governor(Faults::seeded(6).refuse_every(7));
    assert_eq!(serve(&governor), Ok(()));
}

#[test]
fn the_lease_that_was_named_is_revoked() {
    let governor = governor(Faults::seeded(0).revoke_lease(2));
    let lease = |guard: &ConnectionGuard| guard.handle().try_lease_owned(512).unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    let mut first = lease(&guard);
    assert!(first.pin().is_ok());
    let mut second = lease(&guard);
    assert_eq!(second.pin().unwrap_err(), Revoked);
    assert_eq!(guard.handle().try_lease_owned(512).unwrap_err(), LeaseError::Closed);
    drop(guard);
    governor.assert_quiescent();
    let other = governor.inbound().try_admit().unwrap();
    assert!(lease(&other).pin().is_ok());
}

#[test]
fn admissions_are_refused_at_the_scope_that_was_named() {
    for scope in [Scope::System, Scope::Transient, Scope::Peer, Scope::Subnet] {
        let governor = governor(Faults::seeded(0).refuse_admissions_at(scope));
        let error = governor.inbound().try_admit().unwrap_err();
        let refused = error.refused().unwrap();
        assert_eq!((refused.scope(), refused.reason()), (scope, Reason::Limit));
        governor.assert_quiescent();
    }
}

#[test]
fn without_faults_nothing_is_refused() {
    let governor = governor(Faults::seeded(1));
    assert_eq!(serve(&governor), Ok(()));
    let guard = governor.inbound().try_admit().unwrap();
    common::make_idle(&guard, 512, 1);
}
