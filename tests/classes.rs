//! Classes of connections and of streams, and each peer's part of them: who is charged to them, and
//! that they go with the last one who is.

mod common;

use bytes::BufMut;
use common::{
    KIB, assert_adds_up, assert_nothing_left, class_of, counts, governor, make_idle, now, of_class,
    of_class_peer, of_peer, peer_of, scope,
};
use leasehold::{
    BindError, ConfigError, ConnectionGuard, Direction, Governor, LeaseError, Limit, Limits,
    OwnedLease, Reservation, Resource, Scope, Snapshot, StreamGuard, Usage,
};

fn open(guard: &ConnectionGuard) -> StreamGuard {
    guard.handle().try_open_stream(Direction::Inbound).unwrap()
}

fn bound(guard: &ConnectionGuard, class: &str) -> StreamGuard {
    let stream = open(guard);
    stream.bind_class(class).unwrap();
    stream
}

/// What a class or a part of it uses: memory, connections, streams.
fn figures(usage: Usage) -> (u64, u64, u64) {
    (usage.memory, usage.connections(), usage.streams())
}

#[track_caller]
fn class(governor: &Governor, name: &str) -> (u64, u64, u64) {
    figures(of_class(&assert_adds_up(governor), name))
}

#[track_caller]
fn part(governor: &Governor, name: &str, peer: &str) -> (u64, u64, u64) {
    figures(of_class_peer(&assert_adds_up(governor), name, peer))
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.rows(Scope::Class).map(class_of).collect()
}

fn parts(snapshot: &Snapshot) -> Vec<(&str, &[u8])> {
    snapshot.rows(Scope::ClassPeer).map(|part| (class_of(part), peer_of(part))).collect()
}

/// One of everything that a stream can hold: 4096 + 512 + 131072 + 1000 bytes.
fn hold_all(stream: &StreamGuard) -> (OwnedLease, OwnedLease, OwnedLease, Reservation) {
    (
        stream.try_lease_owned(4096).unwrap(),
        stream.try_lease_owned(512).unwrap(),
        stream.try_lease_owned(128 << 10).unwrap(),
        stream.try_reserve(1000).unwrap(),
    )
}

const ALL: u64 = 4096 + 512 + (128 << 10) + 1000;

#[test]
fn a_connection_is_charged_to_its_class_and_to_its_peers_part_of_it() {
    let governor = Governor::unlimited();
    let alice = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let bob = governor.outbound().peer("bob").class("public").try_admit().unwrap();
    let nobody = governor.inbound().class("public").try_admit().unwrap();
    let _held = [
        alice.handle().try_reserve(1).unwrap(),
        bob.handle().try_reserve(20).unwrap(),
        nobody.handle().try_reserve(300).unwrap(),
    ];
    let _stream = open(&bob);
    assert_eq!(class(&governor, "public"), (321, 3, 1));
    assert_eq!(part(&governor, "public", "alice"), (1, 1, 0));
    assert_eq!(part(&governor, "public", "bob"), (20, 1, 1));
    let snapshot = governor.snapshot();
    assert_eq!(parts(&snapshot), [("public", &b"alice"[..]), ("public", b"bob")]);
}

#[test]
fn a_bound_stream_is_charged_to_its_class_with_what_it_holds_before_and_after() {
    for peer in [None, Some("alice")] {
        let governor = Governor::unlimited();
        let admission = governor.inbound().class("public");
        let guard = match peer {
            Some(peer) => admission.peer(peer).try_admit().unwrap(),
            None => admission.try_admit().unwrap(),
        };
        let stream = open(&guard);
        let _of_the_connection = guard.handle().try_reserve(7).unwrap();
        let _before = hold_all(&stream);
        assert_eq!(class(&governor, "mail"), (0, 0, 0));
        let system = governor.snapshot().scope(Scope::System).usage;
        stream.bind_class("mail").unwrap();
        assert_eq!(class(&governor, "mail"), (ALL, 0, 1));
        let _after = hold_all(&stream);
        assert_eq!(class(&governor, "mail"), (2 * ALL, 0, 1));
        let of_peer = if peer.is_some() { (2 * ALL, 0, 1) } else { (0, 0, 0) };
        assert_eq!(part(&governor, "mail", "alice"), of_peer);
        // Everywhere else it counts once, as it did before.
        let snapshot = governor.snapshot();
        assert_eq!(snapshot.scope(Scope::System).usage.memory, system.memory + ALL);
        assert_eq!(figures(of_class(&snapshot, "public")), (7 + 2 * ALL, 1, 1));
        assert_eq!(stream.usage().memory, 2 * ALL);
    }
}

#[test]
fn what_a_bound_stream_returns_comes_off_its_class() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let stream = open(&guard);
    let before = hold_all(&stream);
    stream.bind_class("mail").unwrap();
    let after = hold_all(&stream);
    drop(before);
    assert_eq!(class(&governor, "mail"), (ALL, 0, 1));
    let (block, _small, _large, mut reserved) = after;
    reserved.resize(3000).unwrap();
    assert_eq!(class(&governor, "mail"), (ALL + 2000, 0, 1));
    reserved.resize(1).unwrap();
    drop(block);
    assert_eq!(class(&governor, "mail"), (ALL - 4096 - 999, 0, 1));
    assert_eq!(part(&governor, "mail", "alice"), (ALL - 4096 - 999, 0, 1));
}

#[test]
fn a_stream_that_ends_leaves_its_class_with_what_it_still_has_out_and_then_wholly() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let held = hold_all(&stream);
    drop(stream);
    assert_eq!(class(&governor, "mail"), (ALL, 0, 0));
    assert_eq!(part(&governor, "mail", "alice"), (ALL, 0, 0));
    drop(held);
    let snapshot = assert_adds_up(&governor);
    assert_eq!((names(&snapshot), parts(&snapshot)), (vec![], vec![]));
}

#[test]
fn a_stream_without_leases_takes_its_class_with_it() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    assert_eq!(names(&governor.snapshot()), ["mail"]);
    stream.close();
    assert_eq!(governor.snapshot().rows(Scope::Class).count(), 0);
}

#[test]
fn the_guards_end_clears_the_classes_of_streams_but_not_peer_and_system_of_what_is_out() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = open(&guard);
    let before = stream.try_lease_owned(512).unwrap().into_pinned().unwrap();
    stream.bind_class("mail").unwrap();
    let held = hold_all(&stream);
    let mut large = stream.try_lease_owned(128 << 10).unwrap().into_pinned().unwrap();
    large.put_slice(&[7; 128 << 10]);
    let detached = large.freeze();
    assert_eq!(class(&governor, "mail"), (ALL + 512 + 128 * KIB, 0, 1));
    drop(guard);
    let snapshot = assert_adds_up(&governor);
    assert_eq!((names(&snapshot), parts(&snapshot)), (vec![], vec![]));
    assert_eq!(snapshot.scope(Scope::System).usage.memory, 512 + 128 * KIB);
    assert_eq!(of_peer(&snapshot, "alice").memory, 512 + 128 * KIB);
    assert_eq!(snapshot.orphans.len(), 2);
    // The rest comes back in any order, with the stream's guard alive or not.
    drop(before);
    assert_eq!(assert_adds_up(&governor).scope(Scope::System).usage.memory, 128 * KIB);
    drop(held);
    drop(stream);
    drop(detached);
    assert_nothing_left(&governor);
}

#[test]
fn the_guards_end_takes_its_streams_off_a_class_that_others_are_still_in() {
    let governor = Governor::unlimited();
    let guards = [(); 2].map(|()| governor.inbound().peer("alice").try_admit().unwrap());
    let streams = guards.each_ref().map(open);
    let held = streams.each_ref().map(|stream| {
        stream.bind_class("mail").unwrap();
        stream.try_reserve(100).unwrap()
    });
    let [first, second] = guards;
    drop(first);
    assert_eq!(class(&governor, "mail"), (100, 0, 1));
    assert_eq!(part(&governor, "mail", "alice"), (100, 0, 1));
    drop((held, streams));
    assert_eq!(governor.snapshot().rows(Scope::Class).count(), 0);
    drop(second);
    assert_nothing_left(&governor);
}

#[test]
fn a_close_from_outside_takes_memory_off_the_class_and_leaves_the_count_to_the_guard() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let held = hold_all(&stream);
    guard.handle().close().unwrap();
    assert_eq!(class(&governor, "mail"), (0, 0, 1));
    assert_eq!(part(&governor, "mail", "alice"), (0, 0, 1));
    assert_eq!(class(&governor, "public"), (0, 1, 1));
    assert_eq!(stream.try_reserve(1).unwrap_err(), LeaseError::Closed);
    drop(held);
    drop(stream);
    assert_eq!(class(&governor, "mail"), (0, 0, 0));
    drop(guard);
    assert_nothing_left(&governor);
}

/// Which of a stream's leases are pinned is not known to its class. What is stays charged to all
/// other scopes.
#[test]
fn a_close_from_outside_takes_what_is_pinned_off_a_streams_class_too() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().class("public").try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let pinned = stream.try_lease_owned(4096).unwrap().into_pinned().unwrap();
    guard.handle().close().unwrap();
    assert_eq!(class(&governor, "public").0, 4096);
    assert_eq!(class(&governor, "mail").0, 0);
    drop(pinned);
    assert_eq!(class(&governor, "public").0, 0);
    assert_eq!(class(&governor, "mail").0, 0);
}

#[test]
fn a_connection_that_binds_brings_its_streams_to_the_peers_part_of_their_classes() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().class("public").try_admit().unwrap();
    let (mail, more, news, plain) = (open(&guard), open(&guard), open(&guard), open(&guard));
    mail.bind_class("mail").unwrap();
    more.bind_class("mail").unwrap();
    news.bind_class("news").unwrap();
    let held = [
        mail.try_reserve(1).unwrap(),
        more.try_reserve(20).unwrap(),
        news.try_reserve(300).unwrap(),
        plain.try_reserve(4000).unwrap(),
    ];
    // It is gone already, but for what it has out.
    let ended = bound(&guard, "mail");
    let out = ended.try_reserve(50_000).unwrap();
    drop(ended);
    assert_eq!(parts(&governor.snapshot()), []);
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(part(&governor, "mail", "alice"), (50_021, 0, 2));
    assert_eq!(part(&governor, "news", "alice"), (300, 0, 1));
    assert_eq!(part(&governor, "public", "alice"), (54_321, 1, 4));
    assert_eq!(class(&governor, "mail"), (50_021, 0, 2));
    let _more = mail.try_reserve(1).unwrap();
    assert_eq!(part(&governor, "mail", "alice"), (50_022, 0, 2));
    drop((held, out));
    assert_eq!(part(&governor, "mail", "alice"), (1, 0, 2));
    drop(more);
    drop(news);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(parts(&snapshot), [("mail", &b"alice"[..]), ("public", b"alice")]);
    drop(mail);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn a_bind_that_a_streams_class_refuses_changes_nothing() {
    for refuses_memory in [true, false] {
        let limit = if refuses_memory { scope().memory(100) } else { scope().streams(1) };
        let limits = Limits::unlimited().class_peer("mail", limit);
        let governor = governor(limits);
        let first = governor.inbound().peer("alice").try_admit().unwrap();
        let of_first = bound(&first, "mail");
        let held = of_first.try_reserve(60).unwrap();
        let guard = governor.inbound().class("public").try_admit().unwrap();
        let stream = bound(&guard, "mail");
        let _more = stream.try_reserve(60).unwrap();
        let _lease = guard.try_lease(4096).unwrap();
        let before = now(&governor);
        let error = guard.handle().bind_peer("alice").unwrap_err();
        assert_eq!(error.refused().unwrap().scope(), Scope::ClassPeer);
        assert_eq!(now(&governor), before);
        assert_eq!(guard.handle().usage().unwrap().peer, None);
        drop(held);
        drop(of_first);
        guard.handle().bind_peer("alice").unwrap();
        assert_eq!(part(&governor, "mail", "alice"), (60, 0, 1));
    }
}

#[test]
fn the_connections_own_class_is_not_charged_twice() {
    let governor = governor(Limits::unlimited().class("mail", scope().memory(1000).streams(1)));
    let guard = governor.inbound().peer("alice").class("mail").try_admit().unwrap();
    let stream = open(&guard);
    let before = stream.try_reserve(600).unwrap();
    stream.bind_class("mail").unwrap();
    assert_eq!(class(&governor, "mail"), (600, 1, 1));
    let after = stream.try_reserve(400).unwrap();
    assert_eq!(class(&governor, "mail"), (1000, 1, 1));
    assert_eq!(part(&governor, "mail", "alice"), (1000, 1, 1));
    drop((before, after, stream));
    assert_eq!(class(&governor, "mail"), (0, 1, 0));
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn a_stream_has_one_class_for_good() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let _held = stream.try_reserve(100).unwrap();
    let before = now(&governor);
    for name in ["mail", "news"] {
        assert_eq!(stream.bind_class(name).unwrap_err(), BindError::StreamAlreadyBound);
    }
    assert_eq!(now(&governor), before);
    assert_eq!(counts(&governor.snapshot().refusals), []);
}

#[test]
fn a_stream_of_the_connections_own_class_has_one_class_for_good_too() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().class("public").try_admit().unwrap();
    let stream = bound(&guard, "public");
    assert_eq!(stream.bind_class("mail").unwrap_err(), BindError::StreamAlreadyBound);
}

#[test]
fn the_error_of_a_stream_that_has_a_class_speaks_of_no_peer() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let message = stream.bind_class("mail").unwrap_err().to_string();
    assert!(!message.contains("to a peer"), "{message}");
}

#[test]
fn a_refused_class_changes_nothing_and_can_be_asked_for_again() {
    let limits = Limits::unlimited()
        .class("full", scope().streams(0))
        .class("small", scope().memory(999))
        .class_peer("scarce", scope().memory(999));
    let governor = governor(limits);
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = open(&guard);
    let held = stream.try_reserve(1000).unwrap();
    let before = now(&governor);
    for (name, scope, resource) in [
        ("full", Scope::Class, Resource::Streams),
        ("small", Scope::Class, Resource::Memory),
        ("scarce", Scope::ClassPeer, Resource::Memory),
    ] {
        let error = stream.bind_class(name).unwrap_err();
        let refused = error.refused().unwrap();
        assert_eq!((refused.scope(), refused.resource()), (scope, resource));
        assert_eq!(now(&governor), before);
    }
    let _more = stream.try_reserve(5000).unwrap();
    assert_eq!(class(&governor, "small"), (0, 0, 0), "it is charged to none of them");
    drop(_more);
    drop(held);
    stream.bind_class("small").unwrap();
    let error = stream.try_reserve(1000).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    let _all = stream.try_reserve(999).unwrap();
}

#[test]
fn a_class_with_too_long_a_name_or_on_a_closed_connection_is_refused() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = open(&guard);
    let before = now(&governor);
    let error = stream.bind_class(&"x".repeat(65)).unwrap_err();
    assert!(matches!(error, BindError::NameTooLong(error) if error.len() == 65), "{error}");
    assert_eq!(now(&governor), before);
    stream.bind_class(&"x".repeat(64)).unwrap();
    let second = open(&guard);
    guard.handle().close().unwrap();
    assert_eq!(second.bind_class("mail").unwrap_err(), BindError::Closed);
    drop(guard);
    assert_eq!(second.bind_class("mail").unwrap_err(), BindError::Closed);
    assert_nothing_left(&governor);
}

#[test]
fn a_cached_block_is_charged_to_the_class_of_the_stream_that_leases_it() {
    let governor = governor(Limits::unlimited().class("mail", scope().memory(3 * 4096)));
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    make_idle(&guard, 4096, 8);
    let stream = open(&guard);
    let before = stream.try_lease_owned(4096).unwrap();
    stream.bind_class("mail").unwrap();
    let system = governor.snapshot().scope(Scope::System).usage.memory;
    let second = stream.try_lease_owned(4096).unwrap();
    let third = stream.try_lease_owned(4096).unwrap();
    assert_eq!(class(&governor, "mail"), (3 * 4096, 0, 1));
    assert_eq!(part(&governor, "mail", "alice"), (3 * 4096, 0, 1));
    assert_eq!(
        governor.snapshot().scope(Scope::System).usage.memory,
        system,
        "they were charged there before"
    );
    let error = stream.try_lease_owned(4096).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    assert_eq!(error.refused().unwrap().in_use(), 3 * 4096);
    // The stream's class is no concern of the connection's own leases, nor of what it keeps idle.
    let _of_the_connection = guard.try_lease(4096).unwrap();
    assert_eq!(class(&governor, "mail"), (3 * 4096, 0, 1));
    drop((before, second, third));
    assert_eq!(class(&governor, "mail"), (0, 0, 1));
    let _again = stream.try_lease_owned(4096).unwrap();
    assert_eq!(class(&governor, "mail"), (4096, 0, 1));
}

#[test]
fn a_stream_that_leases_more_blocks_than_a_connection_keeps_is_charged_for_each() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    for _ in 0..3 {
        let mut leases: Vec<_> = (0..20).map(|_| stream.try_lease_owned(512).unwrap()).collect();
        assert_eq!(class(&governor, "mail"), (20 * 512, 0, 1));
        leases.truncate(5);
        assert_eq!(class(&governor, "mail"), (5 * 512, 0, 1));
    }
    assert_eq!(class(&governor, "mail"), (0, 0, 1));
}

#[test]
fn bytes_are_charged_to_the_class_until_the_last_clone_drops() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let mut whole = stream.try_lease_owned(4096).unwrap();
    whole.pin().unwrap().put_slice(&[7; 4096]);
    let mut short = stream.try_lease_owned(64 << 10).unwrap();
    short.pin().unwrap().put_slice(b"moves to a smaller block");
    let (whole, short) = (whole.freeze().unwrap(), short.freeze().unwrap());
    assert_eq!(class(&governor, "mail"), (4096 + 512, 0, 1));
    let clone = whole.clone();
    drop(whole);
    assert_eq!(class(&governor, "mail"), (4096 + 512, 0, 1));
    drop(clone);
    drop(short);
    assert_eq!(class(&governor, "mail"), (0, 0, 1));
}

#[test]
fn many_streams_share_a_class_and_leave_it_one_by_one() {
    let governor = governor(Limits::unlimited().class("mail", scope().streams(200).memory(2000)));
    let guards: Vec<_> = ["alice", "bob"]
        .into_iter()
        .map(|peer| governor.inbound().peer(peer).try_admit().unwrap())
        .collect();
    let mut streams: Vec<_> = (0..200)
        .map(|nth| {
            let stream = bound(&guards[nth % 2], "mail");
            let held = stream.try_reserve(10).unwrap();
            (stream, held)
        })
        .collect();
    assert_eq!(class(&governor, "mail"), (2000, 0, 200));
    assert_eq!(part(&governor, "mail", "alice"), (1000, 0, 100));
    let one_more = open(&guards[0]);
    assert!(one_more.bind_class("mail").is_err());
    assert!(streams[0].0.try_reserve(1).is_err());
    for left in (0..200).rev() {
        drop(streams.swap_remove(left / 2));
        assert_eq!(class(&governor, "mail"), (10 * left as u64, 0, left as u64));
    }
    assert_eq!(governor.snapshot().rows(Scope::Class).count(), 0);
    one_more.bind_class("mail").unwrap();
    drop(guards);
    assert_nothing_left(&governor);
}

#[test]
fn connections_and_streams_of_one_name_share_one_class() {
    let limits = Limits::unlimited().class("mail", scope().memory(1000).streams(2));
    let governor = governor(limits);
    let listener = governor.inbound().peer("alice").class("mail").try_admit().unwrap();
    let _of_listener = open(&listener);
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let _first = listener.handle().try_reserve(600).unwrap();
    let _second = stream.try_reserve(400).unwrap();
    assert_eq!(class(&governor, "mail"), (1000, 1, 2));
    assert_eq!(part(&governor, "mail", "alice"), (1000, 1, 2));
    for error in [listener.handle().try_reserve(1).unwrap_err(), stream.try_reserve(1).unwrap_err()]
    {
        let refused = error.refused().unwrap();
        assert_eq!((refused.scope(), refused.limit()), (Scope::Class, Limit::Max(1000)));
    }
    assert!(listener.handle().try_open_stream(Direction::Inbound).is_err());
    drop(listener);
    assert_eq!(class(&governor, "mail"), (400, 0, 1));
}

#[test]
fn a_class_exists_while_someone_is_in_it() {
    let governor = governor(Limits::unlimited().class("public", scope().connections(10)));
    assert_eq!(
        governor.snapshot().rows(Scope::Class).count(),
        0,
        "a name in the limits alone is no class"
    );
    let first = governor.inbound().class("public").try_admit().unwrap();
    let second = governor.inbound().class("else").try_admit().unwrap();
    assert_eq!(names(&governor.snapshot()), ["else", "public"]);
    drop(second);
    assert_eq!(names(&governor.snapshot()), ["public"]);
    drop(first);
    assert_nothing_left(&governor);
}

#[test]
fn a_handle_keeps_no_class() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let handle = guard.handle().clone();
    let stream = handle.try_open_stream(Direction::Outbound).unwrap();
    stream.bind_class("mail").unwrap();
    drop(guard);
    assert_nothing_left(&governor);
    drop((handle, stream));
}

/// Streams of one peer in classes that the peer makes up fill no class that another peer uses.
#[test]
fn classes_made_up_by_one_peer_refuse_nothing_to_another() {
    let governor = governor(Limits::unlimited().class_default(scope().streams(1)));
    let admit = |peer: &str| governor.inbound().peer(peer).try_admit().unwrap();
    let (mallory, alice) = (admit("mallory"), admit("alice"));
    let made_up: Vec<_> = (0..300).map(|nth| bound(&mallory, &format!("made up {nth}"))).collect();
    let of_alice = bound(&alice, "chat");
    assert_eq!(class(&governor, "chat"), (0, 0, 1));
    assert_eq!(assert_adds_up(&governor).rows(Scope::Class).count(), 301);
    drop((made_up, of_alice, mallory, alice));
    assert_nothing_left(&governor);
}

#[test]
fn what_connections_of_a_class_keep_idle_gives_way_to_a_stream_of_it() {
    let governor = governor(Limits::unlimited().class("mail", scope().memory(8 * 4096)));
    let hoarder = governor.inbound().class("mail").try_admit().unwrap();
    make_idle(&hoarder, 4096, 8);
    assert_eq!(class(&governor, "mail"), (8 * 4096, 1, 0));
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let _lease = stream.try_lease_owned(4096).unwrap();
}

#[test]
fn what_connections_of_a_class_keep_idle_gives_way_to_a_stream_that_is_bound_to_it() {
    let governor = governor(Limits::unlimited().class("mail", scope().memory(8 * 4096)));
    let hoarder = governor.inbound().class("mail").try_admit().unwrap();
    make_idle(&hoarder, 4096, 8);
    let guard = governor.inbound().try_admit().unwrap();
    let stream = open(&guard);
    let _held = stream.try_reserve(1000).unwrap();
    stream.bind_class("mail").unwrap();
}

#[test]
fn what_connections_of_a_class_keep_idle_gives_way_to_a_connection_that_binds_with_a_stream_of_it()
{
    let governor = governor(Limits::unlimited().class_peer("mail", scope().memory(8 * 4096)));
    let hoarder = governor.inbound().peer("alice").class("mail").try_admit().unwrap();
    make_idle(&hoarder, 4096, 8);
    let guard = governor.inbound().try_admit().unwrap();
    let stream = bound(&guard, "mail");
    let _held = stream.try_reserve(1000).unwrap();
    guard.handle().bind_peer("alice").unwrap();
}

#[test]
fn every_class_that_the_limits_can_name_can_be_in_use() {
    let name = |nth: usize| format!("{nth}");
    let many = Limits::MAX_CLASS_NAMES;
    let limits = (0..many).fold(Limits::unlimited(), |all, nth| all.class(&name(nth), scope()));
    let one_more = limits.clone().class(&name(many), scope());
    assert_eq!(Governor::new(one_more).unwrap_err(), ConfigError::ClassNames { count: many + 1 });
    let governor = governor(limits);
    let admit = |nth| governor.inbound().class(&name(nth)).try_admit().unwrap();
    let guards: Vec<_> = (0..many).map(admit).collect();
    assert_eq!(governor.snapshot().rows(Scope::Class).count(), guards.len());
}
