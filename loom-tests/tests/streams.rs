//! Streams with a class of their own: the class, and the peer's part of it, count what the streams
//! hold, to the byte, whatever happens while they are bound.
//!
//! Two threads (eight preemptions), or three (three or four preemptions).

use leasehold::{
    BindError, ConnectionGuard, Direction, Governor, Limits, OwnedLease, Scope, ScopeLimits,
    StreamGuard,
};
use loom_tests::{
    Arc, BLOCK, Bounds, Mark, admit, all_back, at_rest, bytes, cache, governor, granted, lease,
    model, of_class, race, race3, room,
};

const CLASS: &str = "class";
const PEER: &str = "peer";

fn open(guard: &ConnectionGuard) -> StreamGuard {
    guard.handle().try_open_stream(Direction::Inbound).unwrap()
}

fn bound(guard: &ConnectionGuard) -> StreamGuard {
    let stream = open(guard);
    stream.bind_class(CLASS).unwrap();
    stream
}

fn owned(stream: &StreamGuard) -> OwnedLease {
    stream.try_lease_owned(BLOCK).unwrap()
}

/// Whether the bind went through, or else was refused by the class.
#[track_caller]
fn went_through(answer: &Result<(), BindError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(BindError::Refused(refused)) if refused.scope() == Scope::Class => false,
        Err(other) => panic!("neither bound nor refused: {other}"),
    }
}

/// The class has this many streams and blocks; so have the peers' parts of it, if the peers are
/// known, and else nothing.
#[track_caller]
fn class_has(governor: &Governor, streams: u64, blocks: u64, peer_is_known: bool) {
    at_rest(governor);
    let class = (streams, bytes(blocks));
    let parts = if peer_is_known { class } else { (0, 0) };
    assert_eq!(of_class(governor, CLASS), [class, parts], "the class, and the peer's part of it");
}

/// So many blocks are all that the class's one stream has, until it has none as `held` drops.
#[track_caller]
fn class_has_until(governor: &Governor, held: impl Sized, blocks: u64, peer_is_known: bool) {
    class_has(governor, 1, blocks, peer_is_known);
    drop(held);
    class_has(governor, 1, 0, peer_is_known);
}

/// A model of one connection, of which nothing is left.
fn connected(
    name: &str,
    bounds: Bounds,
    body: impl Fn(&Governor, ConnectionGuard) + Send + Sync + 'static,
) {
    model(name, bounds, move || {
        let governor = governor(Limits::unlimited());
        body(&governor, admit(&governor));
        all_back(&governor);
    });
}

/// Two threads share a stream, whose connection has an idle block if `cached`.
fn shared(
    name: &str,
    cached: bool,
    body: impl Fn(&Governor, &ConnectionGuard, Arc<StreamGuard>) + Send + Sync + 'static,
) {
    connected(name, Bounds::TWO_THREADS, move |governor, guard| {
        if cached {
            cache(&guard);
        }
        body(governor, &guard, Arc::new(open(&guard)));
    });
}

#[test]
fn bind_class_against_return() {
    shared("bind_class_against_return", false, |governor, _, stream| {
        let owned = owned(&stream);
        let (answer, ()) = race(|| stream.bind_class(CLASS), move || drop(owned));
        answer.unwrap();
        class_has(governor, 1, 0, false);
    });
}

fn bind_against_lease(name: &str, cached: bool) {
    shared(name, cached, |governor, _, stream| {
        let same = stream.clone();
        let (answer, owned) = race(|| stream.bind_class(CLASS), move || owned(&same));
        answer.unwrap();
        class_has_until(governor, owned, 1, false);
    });
}

#[test]
fn bind_class_against_lease() {
    bind_against_lease("bind_class_against_lease", false);
}

/// The way that takes no connection's mutex: the lease is of an idle block.
#[test]
fn bind_class_against_cached_lease() {
    bind_against_lease("bind_class_against_cached_lease", true);
}

#[test]
fn bind_class_against_lease_and_return() {
    shared("bind_class_against_lease_and_return", true, |governor, _, stream| {
        let same = stream.clone();
        let (answer, ()) = race(|| stream.bind_class(CLASS), move || drop(owned(&same)));
        answer.unwrap();
        class_has(governor, 1, 0, false);
    });
}

#[test]
fn bind_class_against_reservation() {
    shared("bind_class_against_reservation", false, |governor, _, stream| {
        let same = stream.clone();
        let (answer, reservation) = race(
            || stream.bind_class(CLASS),
            move || {
                let mut reservation = same.try_reserve(bytes(1)).unwrap();
                reservation.resize(bytes(3)).unwrap();
                reservation.resize(bytes(2)).unwrap();
                reservation
            },
        );
        answer.unwrap();
        class_has_until(governor, reservation, 2, false);
    });
}

/// A close from outside takes the memory off the class, and leaves the stream there.
#[test]
fn bind_class_against_a_close() {
    shared("bind_class_against_a_close", false, |governor, guard, stream| {
        let _revoked = owned(&stream);
        let handle = guard.handle().clone();
        let (answer, closed) = race(|| stream.bind_class(CLASS), move || handle.close());
        assert!(closed.is_ok());
        assert!(matches!(answer, Ok(()) | Err(BindError::Closed)));
        class_has(governor, u64::from(answer.is_ok()), 0, false);
    });
}

#[test]
fn bind_class_against_the_guard() {
    connected("bind_class_against_the_guard", Bounds::TWO_THREADS, |governor, guard| {
        let stream = open(&guard);
        let pinned = owned(&stream).into_pinned().unwrap();
        let (answer, ()) = race(|| stream.bind_class(CLASS), move || drop(guard));
        assert!(matches!(answer, Ok(()) | Err(BindError::Closed)));
        // What is left behind counts for no class.
        class_has(governor, 0, 0, false);
        drop((stream, pinned));
    });
}

/// The bind is the last that the stream's guard does, while the last lease goes.
#[test]
fn bind_class_against_the_streams_end() {
    shared("bind_class_against_the_streams_end", false, |governor, _, stream| {
        let owned = owned(&stream);
        let same = stream.clone();
        race(
            move || {
                stream.bind_class(CLASS).unwrap();
                drop(stream);
            },
            move || {
                drop(same);
                drop(owned);
            },
        );
        class_has(governor, 0, 0, false);
    });
}

#[test]
fn bind_class_against_bind_peer() {
    shared("bind_class_against_bind_peer", false, |governor, guard, stream| {
        let owned = owned(&stream);
        let same = stream.clone();
        let (peer, class) = race(|| guard.handle().bind_peer(PEER), move || same.bind_class(CLASS));
        peer.unwrap();
        class.unwrap();
        class_has_until(governor, owned, 1, true);
    });
}

/// What a stream returns while its connection moves to its peer.
#[test]
fn bind_peer_against_return_to_a_class() {
    shared("bind_peer_against_return_to_a_class", false, |governor, guard, stream| {
        stream.bind_class(CLASS).unwrap();
        let (one, two) = (owned(&stream), owned(&stream));
        let (peer, ()) = race(|| guard.handle().bind_peer(PEER), move || drop(one));
        peer.unwrap();
        class_has_until(governor, two, 1, true);
    });
}

#[test]
fn bind_peer_against_the_end_of_a_classed_stream() {
    connected(
        "bind_peer_against_the_end_of_a_classed_stream",
        Bounds::TWO_THREADS,
        |governor, guard| {
            let stream = bound(&guard);
            let reservation = stream.try_reserve(bytes(1)).unwrap();
            let (peer, ()) = race(|| guard.handle().bind_peer(PEER), move || drop(stream));
            peer.unwrap();
            class_has(governor, 0, 1, true);
            drop(reservation);
            class_has(governor, 0, 0, true);
        },
    );
}

#[test]
fn bind_class_against_bind_peer_and_return() {
    connected(
        "bind_class_against_bind_peer_and_return",
        Bounds::THREE_OF_FEW_STEPS,
        |governor, guard| {
            let stream = Arc::new(open(&guard));
            let (one, two) = (owned(&stream), owned(&stream));
            let same = stream.clone();
            let (peer, class, ()) = race3(
                || guard.handle().bind_peer(PEER),
                move || same.bind_class(CLASS),
                move || drop(one),
            );
            peer.unwrap();
            class.unwrap();
            class_has(governor, 1, 1, true);
            drop((two, stream, guard));
        },
    );
}

#[test]
fn one_stream_binds_twice() {
    shared("one_stream_binds_twice", false, |governor, _, stream| {
        let _held = owned(&stream);
        let same = stream.clone();
        let answers = race(|| stream.bind_class(CLASS), move || same.bind_class("other"));
        assert!(matches!(
            answers,
            (Ok(()), Err(BindError::StreamAlreadyBound))
                | (Err(BindError::StreamAlreadyBound), Ok(()))
        ));
        let mine = u64::from(answers.0.is_ok());
        assert_eq!(of_class(governor, CLASS)[0], (mine, bytes(mine)));
        assert_eq!(of_class(governor, "other")[0], (1 - mine, bytes(1 - mine)));
    });
}

/// Two streams of two connections bind to a class that has room for what one of them counts for.
fn two_streams_bind(name: &str, limits: ScopeLimits) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited().class(CLASS, limits));
        let (one, two) = (admit(&governor), admit(&governor));
        let streams = [open(&one), open(&two)];
        let held = streams.each_ref().map(|stream| stream.try_reserve(bytes(1)).unwrap());
        let [first, second] = streams;
        let ((first_answer, first), (second_answer, second)) =
            race(|| (first.bind_class(CLASS), first), move || (second.bind_class(CLASS), second));
        assert!(
            went_through(&first_answer) != went_through(&second_answer),
            "one fits, and one only",
        );
        class_has(&governor, 1, 1, false);
        drop((first, second, held, one, two));
        all_back(&governor);
    });
}

#[test]
fn two_streams_bind_to_the_last_place() {
    two_streams_bind("two_streams_bind_to_the_last_place", ScopeLimits::unlimited().streams(1));
}

#[test]
fn two_streams_bind_to_the_last_block() {
    two_streams_bind("two_streams_bind_to_the_last_block", room(1));
}

/// A bind is refused for what the stream holds, and for nothing that has come back before it.
#[test]
fn bind_to_a_full_class_against_return() {
    model("bind_to_a_full_class_against_return", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class(CLASS, room(0)));
        let guard = admit(&governor);
        let stream = open(&guard);
        let owned = owned(&stream);
        let (answer, ()) = race(|| stream.bind_class(CLASS), move || drop(owned));
        class_has(&governor, u64::from(went_through(&answer)), 0, false);
        if answer.is_err() {
            stream.bind_class(CLASS).unwrap();
        }
        drop((stream, guard));
        all_back(&governor);
    });
}

/// A bind while the class's limit falls: what is bound above it stays, and nothing more comes.
#[test]
fn bind_class_against_lower_limits() {
    model("bind_class_against_lower_limits", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class(CLASS, room(1)));
        let guard = admit(&governor);
        let (one, two) = (open(&guard), open(&guard));
        let held = [&one, &two].map(|stream| stream.try_reserve(bytes(1)).unwrap());
        let (late, (early, two)) = race(
            || {
                governor.set_limits(Limits::unlimited().class(CLASS, room(0))).unwrap();
                one.bind_class(CLASS)
            },
            move || (two.bind_class(CLASS), two),
        );
        assert!(!went_through(&late));
        let early = u64::from(went_through(&early));
        class_has(&governor, early, early, false);
        drop((one, two, held, guard));
        all_back(&governor);
    });
}

/// Streams of two connections lease the last block of their class.
#[test]
fn last_block_of_a_streams_class() {
    model("last_block_of_a_streams_class", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class(CLASS, room(1)));
        let (one, two) = (admit(&governor), admit(&governor));
        let streams = (bound(&one), bound(&two));
        let ask = |stream: StreamGuard| (stream.try_lease_owned(BLOCK), stream);
        let (first, second) = race(|| ask(streams.0), move || ask(streams.1));
        assert!(granted(&first.0, Scope::Class) != granted(&second.0, Scope::Class));
        class_has(&governor, 2, 1, false);
        drop((first, second, one, two));
        all_back(&governor);
    });
}

/// A lease on a stream that finds an idle block, which someone else leases the fast way meanwhile.
#[test]
fn idle_block_for_a_classed_stream() {
    shared("idle_block_for_a_classed_stream", true, |governor, guard, stream| {
        stream.bind_class(CLASS).unwrap();
        let same = stream.clone();
        let ((), owned) = race(|| lease(guard).mark(1), move || owned(&same));
        class_has_until(governor, owned, 1, false);
    });
}

/// The last lease on a closed stream goes while the stream does: its account goes once, and after
/// its last use.
#[test]
fn last_classed_lease_against_the_streams_end() {
    connected(
        "last_classed_lease_against_the_streams_end",
        Bounds::TWO_THREADS,
        |governor, guard| {
            let stream = bound(&guard);
            let owned = owned(&stream);
            race(|| drop(stream), move || drop(owned));
            class_has(governor, 0, 0, false);
            assert_eq!(at_rest(governor).scope(Scope::System).usage.streams(), 0);
        },
    );
}

/// The two last leases, and the stream.
#[test]
fn last_classed_leases_against_the_streams_end() {
    connected(
        "last_classed_leases_against_the_streams_end",
        Bounds::THREE_THREADS,
        |governor, guard| {
            let stream = bound(&guard);
            let (one, two) = (owned(&stream), owned(&stream));
            race3(|| drop(stream), move || drop(one), move || drop(two));
            class_has(governor, 0, 0, false);
        },
    );
}

/// The last lease, the stream and the connection: nothing is left that keeps the account.
#[test]
fn classed_stream_against_the_guard() {
    connected("classed_stream_against_the_guard", Bounds::THREE_THREADS, |governor, guard| {
        let stream = bound(&guard);
        let owned = owned(&stream);
        race3(|| drop(guard), move || drop(stream), move || drop(owned));
        class_has(governor, 0, 0, false);
    });
}

/// A return that finds its stream gone already takes nothing off the stream that came after it.
#[test]
fn late_return_against_the_next_stream() {
    connected("late_return_against_the_next_stream", Bounds::TWO_THREADS, |governor, guard| {
        let old = bound(&guard);
        let owned = owned(&old);
        let ((new, reservation), ()) = race(
            || {
                drop(old);
                let new = bound(&guard);
                let reservation = new.try_reserve(bytes(1)).unwrap();
                (new, reservation)
            },
            move || drop(owned),
        );
        class_has_until(governor, reservation, 1, false);
        drop((new, guard));
    });
}

/// Idle memory of a connection of the same class is no reason to refuse a stream.
#[test]
fn idle_block_of_the_class_makes_room_for_a_stream() {
    model("idle_block_of_the_class_makes_room_for_a_stream", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class(CLASS, room(1)));
        let idle = governor.inbound().class(CLASS).try_admit().unwrap();
        cache(&idle);
        let guard = admit(&governor);
        let stream = bound(&guard);
        let (owned, idle) = race(
            || stream.try_lease_owned(BLOCK),
            move || {
                idle.handle().trim();
                idle
            },
        );
        assert!(granted(&owned, Scope::Class), "refused by an idle block");
        drop((owned, stream, guard, idle));
        all_back(&governor);
    });
}

/// As above, as the stream is bound with what it has.
#[test]
fn idle_block_of_the_class_makes_room_for_a_bind() {
    model("idle_block_of_the_class_makes_room_for_a_bind", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class(CLASS, room(1)));
        let idle = governor.inbound().class(CLASS).try_admit().unwrap();
        cache(&idle);
        let guard = admit(&governor);
        let stream = open(&guard);
        let owned = owned(&stream);
        stream.bind_class(CLASS).unwrap();
        drop((owned, stream, guard, idle));
        all_back(&governor);
    });
}

/// The class is asked for what the stream has, and not for what it had: the other's block is there
/// only after the stream's was returned.
#[test]
fn bind_against_return_and_reserve() {
    model("bind_against_return_and_reserve", Bounds::preemptions(3), || {
        let governor = governor(Limits::unlimited().class(CLASS, room(1)));
        let guard = admit(&governor);
        let other = governor.inbound().class(CLASS).try_admit().unwrap();
        let stream = open(&guard);
        let held = stream.try_reserve(bytes(1)).unwrap();
        let (bound, (reserved, other)) = race(
            || stream.bind_class(CLASS),
            move || {
                drop(held);
                (other.handle().try_reserve(bytes(1)), other)
            },
        );
        bound.expect("there was room at every moment");
        drop((reserved.expect("there was room at every moment"), other, stream, guard));
        all_back(&governor);
    });
}
