//! A peer's scope leaves the map with its last connection, while another connection of that peer
//! comes.
//!
//! Two threads (eight preemptions), or three (three or four preemptions).

use leasehold::{ConnectionGuard, Governor, Limits, Scope, ScopeLimits};
use loom_tests::{
    BLOCK, Bounds, Mark, admit, all_back, at_rest, bytes, governor, lease, model, race, race3,
};

const PEER: &str = "peer";

fn of_peer(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer(PEER).try_admit().unwrap()
}

/// The one peer that is known has this many connections, and this many blocks.
#[track_caller]
fn known(governor: &Governor, connections: u64, blocks: u64) {
    let snapshot = at_rest(governor);
    let rows = snapshot.rows(Scope::Peer).map(|row| row.usage);
    let rows: Vec<_> = rows.map(|usage| (usage.connections(), usage.memory)).collect();
    assert_eq!(rows, [(connections, bytes(blocks))]);
}

#[test]
fn last_connection_against_admission() {
    model("last_connection_against_admission", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let old = of_peer(&governor);
        let same = governor.clone();
        let ((), (new, owned)) = race(
            || drop(old),
            move || {
                let new = of_peer(&same);
                let owned = new.handle().try_lease_owned(BLOCK).unwrap();
                (new, owned)
            },
        );
        known(&governor, 1, 1);
        drop((new, owned));
        all_back(&governor);
    });
}

#[test]
fn last_connection_against_bind() {
    model("last_connection_against_bind", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let (old, new) = (of_peer(&governor), admit(&governor));
        let ((), new) = race(
            || drop(old),
            move || {
                new.handle().bind_peer(PEER).unwrap();
                new
            },
        );
        known(&governor, 1, 0);
        drop(new);
        all_back(&governor);
    });
}

/// What keeps a departed connection's charge on its peer is its last block.
#[test]
fn last_bytes_against_admission() {
    model("last_bytes_against_admission", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let old = of_peer(&governor);
        let mut lease = lease(&old);
        lease.mark(1);
        let frozen = lease.freeze();
        drop(old);
        known(&governor, 0, 1);
        let same = governor.clone();
        let ((), new) = race(|| drop(frozen), move || of_peer(&same));
        known(&governor, 1, 0);
        drop(new);
        all_back(&governor);
    });
}

/// There is one scope of a peer at a time, so its limit holds however its connections come and go.
#[test]
fn one_at_a_time() {
    model("one_at_a_time", Bounds::THREE_OF_FEW_STEPS, || {
        let governor = governor(Limits::unlimited().peer(ScopeLimits::unlimited().connections(1)));
        let old = of_peer(&governor);
        let (one, two) = (governor.clone(), governor.clone());
        let ((), one, two) = race3(
            || drop(old),
            move || one.inbound().peer(PEER).try_admit(),
            move || two.inbound().peer(PEER).try_admit(),
        );
        assert!(one.is_err() || two.is_err(), "two connections of a peer that may have one");
        if one.is_ok() || two.is_ok() {
            known(&governor, 1, 0);
        }
        drop((one, two));
        all_back(&governor);
    });
}
