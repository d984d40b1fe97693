//! Binding a connection to its peer: everything it has moves in one step, or nothing does.
//!
//! Two threads, eight preemptions. The peer has room for one block.

use leasehold::{BindError, ConnectionGuard, Governor, Limits, Scope, Snapshot};
use loom_tests::{
    Arc, BLOCK, Bounds, admit, all_back, at_rest, bytes, cache, governor, granted, lease, model,
    race, room,
};

const PEER: &str = "peer";

fn narrow_peer() -> Governor {
    governor(Limits::unlimited().peer(room(1)))
}

fn of_peer(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer(PEER).try_admit().unwrap()
}

/// Whether the bind went through, or else was refused by the peer.
#[track_caller]
fn bound(answer: &Result<(), BindError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(BindError::Refused(refused)) if refused.scope() == Scope::Peer => false,
        Err(other) => panic!("neither bound nor refused: {other}"),
    }
}

/// What the transient scope and the peers have, in blocks.
fn blocks(snapshot: &Snapshot) -> (u64, u64) {
    let peers = snapshot.rows(Scope::Peer).map(|row| row.usage.memory).sum::<u64>();
    (snapshot.scope(Scope::Transient).usage.memory / bytes(1), peers / bytes(1))
}

#[test]
fn bind_against_own_lease() {
    model("bind_against_own_lease", Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let guard = Arc::new(admit(&governor));
        let same = guard.clone();
        let (answer, owned) = race(
            || guard.handle().bind_peer(PEER),
            move || same.handle().try_lease_owned(BLOCK).unwrap(),
        );
        assert!(bound(&answer));
        assert_eq!(blocks(&at_rest(&governor)), (0, 1));
        drop((owned, guard));
        all_back(&governor);
    });
}

#[test]
fn bind_against_own_return() {
    model("bind_against_own_return", Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let guard = admit(&governor);
        let owned = lease(&guard).into_owned();
        let (answer, ()) = race(|| guard.handle().bind_peer(PEER), move || drop(owned));
        assert!(bound(&answer));
        assert_eq!(at_rest(&governor).scope(Scope::Transient).usage.memory, 0);
        drop(guard);
        all_back(&governor);
    });
}

/// Room for what one of two connections has.
fn one_of_two_binds(
    name: &str,
    admit: impl Fn(&Governor) -> ConnectionGuard + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = narrow_peer();
        let (one, two) = (admit(&governor), admit(&governor));
        let _held = [
            one.handle().try_reserve(bytes(1)).unwrap(),
            two.handle().try_reserve(bytes(1)).unwrap(),
        ];
        let (one_answer, (two_answer, two)) =
            race(|| one.handle().bind_peer(PEER), move || (two.handle().bind_peer(PEER), two));
        assert!(bound(&one_answer) != bound(&two_answer), "one fits, and one only");
        assert_eq!(blocks(&at_rest(&governor)), (1, 1));
        drop((one, two));
        all_back(&governor);
    });
}

#[test]
fn two_connections_bind() {
    one_of_two_binds("two_connections_bind", admit);
}

/// A class makes a bind take the way that has more steps.
#[test]
fn two_classed_connections_bind() {
    let admit = |governor: &Governor| governor.inbound().class("class").try_admit().unwrap();
    one_of_two_binds("two_classed_connections_bind", admit);
}

#[test]
fn bind_against_lease_of_the_peer() {
    model("bind_against_lease_of_the_peer", Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let (newcomer, known) = (admit(&governor), of_peer(&governor));
        let _held = newcomer.handle().try_reserve(bytes(1)).unwrap();
        let (answer, (owned, known)) = race(
            || newcomer.handle().bind_peer(PEER),
            move || (known.handle().try_lease_owned(BLOCK), known),
        );
        assert!(bound(&answer) != granted(&owned, Scope::Peer), "one fits, and one only");
        at_rest(&governor);
        drop((newcomer, owned, known));
        all_back(&governor);
    });
}

/// Idle blocks stand in the way of no request, wherever they are when the peer's scope is asked.
#[test]
fn bind_with_idle_blocks_against_lease_of_the_peer() {
    let name = "bind_with_idle_blocks_against_lease_of_the_peer";
    model(name, Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let (newcomer, known) = (admit(&governor), of_peer(&governor));
        cache(&newcomer);
        let (answer, (owned, known)) = race(
            || newcomer.handle().bind_peer(PEER),
            move || (known.handle().try_lease_owned(BLOCK), known),
        );
        assert!(bound(&answer) && granted(&owned, Scope::Peer), "refused by an idle block");
        assert_eq!(blocks(&at_rest(&governor)), (0, 1));
        drop((newcomer, owned, known));
        all_back(&governor);
    });
}

#[test]
fn one_connection_binds_twice() {
    model("one_connection_binds_twice", Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let guard = Arc::new(admit(&governor));
        let _held = guard.handle().try_reserve(bytes(1)).unwrap();
        let same = guard.clone();
        let answers =
            race(|| guard.handle().bind_peer("one"), move || same.handle().bind_peer("two"));
        assert!(matches!(
            answers,
            (Ok(()), Err(BindError::AlreadyBound)) | (Err(BindError::AlreadyBound), Ok(()))
        ));
        let snapshot = at_rest(&governor);
        assert_eq!((blocks(&snapshot), snapshot.rows(Scope::Peer).count()), ((0, 1), 1));
        drop(guard);
        all_back(&governor);
    });
}

/// The limit in force at the bind decides; what is bound above a later one stays.
#[test]
fn bind_against_lower_limits() {
    model("bind_against_lower_limits", Bounds::TWO_THREADS, || {
        let governor = narrow_peer();
        let (one, two) = (admit(&governor), admit(&governor));
        let _held = [
            one.handle().try_reserve(bytes(1)).unwrap(),
            two.handle().try_reserve(bytes(1)).unwrap(),
        ];
        let (late, (early, two)) = race(
            || {
                governor.set_limits(Limits::unlimited().peer(room(0))).unwrap();
                one.handle().bind_peer(PEER)
            },
            move || (two.handle().bind_peer(PEER), two),
        );
        assert!(!bound(&late));
        let expected = if bound(&early) { (1, 1) } else { (2, 0) };
        assert_eq!(blocks(&at_rest(&governor)), expected);
        drop((one, two));
        all_back(&governor);
    });
}
