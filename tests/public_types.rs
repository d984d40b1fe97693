//! What holds for every public type: it crosses threads, errors are small and become
//! [`std::io::Error`]s that keep their cause.

mod common;

use std::io;

use leasehold::*;

fn crosses_threads<T: Send + Sync>() {}
fn stays_in_a_struct<T: Send + Unpin + 'static>() {}

/// Asserts that each type is `Send + Sync`, and lists their names.
macro_rules! exported {
    ($($name:ident $(<$($parameter:tt),+>)?),+ $(,)?) => {{
        $(crosses_threads::<$name $(<$($parameter),+>)?>();)+
        vec![$(stringify!($name)),+]
    }};
}

fn asserted() -> Vec<&'static str> {
    exported![
        Admission<'static>,
        ArenaReport,
        SizeClassReport,
        SystemClock,
        AdmitError,
        BindError,
        Closed,
        ConfigError,
        LeaseError,
        NameTooLong,
        Reason,
        Refused,
        Resource,
        Revoked,
        Scope,
        Governed<()>,
        Governor,
        GovernorBuilder,
        ConnectionGuard,
        ConnectionHandle,
        Lease<'static>,
        OwnedLease,
        Pinned<'static>,
        PinnedLease,
        Limit,
        AllowList,
        AllowRule,
        Host,
        LimitWarning,
        Limits,
        NodeType,
        Observe,
        PrefixLimits,
        Rate,
        ScopeLimits,
        SubnetLimits,
        UnknownNodeType,
        ConnectionId,
        Direction,
        PeerKey,
        Source,
        Priority,
        ConnectionRow,
        ConnectionUsage,
        Drained,
        Orphan,
        Reclaimed,
        RefusalRow,
        Request<'static, ConnectionGuard>,
        ScopeRow,
        Snapshot,
        StreamUsage,
        Totals,
        Reservation,
        StreamGuard,
        Group,
        MemoryUse,
        Names,
        NotQuiescent,
        Report,
        ReportOptions,
        ReportedConnection,
        ScopeUse,
        Site,
        Usage,
    ]
}

/// Those that only the feature `serde` brings.
#[cfg(feature = "serde")]
fn asserted_of_serde() -> Vec<&'static str> {
    exported![FileError, LimitsFile, Position, Problem, ProblemKind]
}

#[cfg(not(feature = "serde"))]
fn asserted_of_serde() -> Vec<&'static str> {
    Vec::new()
}

/// Those that only the feature `testing` brings.
#[cfg(feature = "testing")]
fn asserted_of_testing() -> Vec<&'static str> {
    exported![Faults]
}

#[cfg(not(feature = "testing"))]
fn asserted_of_testing() -> Vec<&'static str> {
    Vec::new()
}

/// The types that `src/lib.rs` exports: every `pub use`, without constants and traits.
fn exported_types() -> Vec<&'static str> {
    let source = include_str!("../src/lib.rs");
    let parts: Vec<_> = source.split("pub use ").collect();
    let uses = parts.windows(2).filter(|parts| {
        // Without the feature, what it brings is not there to be asserted.
        let needs = |feature| parts[0].ends_with(&format!("#[cfg(feature = \"{feature}\")]\n"));
        (cfg!(feature = "serde") || !needs("serde"))
            && (cfg!(feature = "testing") || !needs("testing"))
    });
    let uses = uses.map(|parts| parts[1].split(';').next().unwrap());
    uses.flat_map(|path| path.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|name| name.starts_with(|c: char| c.is_uppercase()))
        .filter(|name| name.chars().any(|c| c.is_lowercase()))
        .filter(|name| *name != "Clock")
        .collect()
}

#[test]
fn every_public_type_is_send_and_sync() {
    let (mut asserted, mut exported) = (asserted(), exported_types());
    asserted.extend(asserted_of_serde());
    asserted.extend(asserted_of_testing());
    asserted.sort_unstable();
    exported.sort_unstable();
    assert_eq!(asserted, exported);
    crosses_threads::<Box<dyn Clock>>();
    crosses_threads::<future::Revocation>();
}

#[test]
fn futures_can_be_stored() {
    stays_in_a_struct::<future::Revocation>();
}

#[test]
fn waiting_in_a_task_is_send() {
    fn send<T: Send>(_: &T) {}
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    send(&guard.handle().until_revoked(async { guard.try_lease(512).unwrap().len() }));
}

#[test]
fn errors_are_small() {
    let sizes = [
        size_of::<Refused>(),
        size_of::<LeaseError>(),
        size_of::<AdmitError>(),
        size_of::<BindError>(),
        size_of::<ConfigError>(),
        size_of::<NameTooLong>(),
        size_of::<Closed>(),
        size_of::<Revoked>(),
    ];
    assert!(sizes.iter().all(|size| *size <= 64), "{sizes:?}");
}

#[test]
fn values_are_as_small_as_their_docs_imply() {
    assert_eq!(size_of::<ConnectionId>(), 16);
    assert_eq!(size_of::<ConnectionGuard>(), 8);
    assert_eq!(size_of::<ConnectionHandle>(), 8);
    assert!(size_of::<Lease<'_>>() <= 64);
    assert!(size_of::<OwnedLease>() <= 64);
}

/// Checks what kind of `io::Error` an error becomes, and that it is still in there.
#[track_caller]
fn assert_becomes<E>(error: E, kind: io::ErrorKind)
where
    E: std::error::Error + Into<io::Error> + Clone + PartialEq + 'static,
{
    let message = error.to_string();
    let io: io::Error = error.clone().into();
    assert_eq!((io.kind(), io.to_string()), (kind, message));
    let cause = io.get_ref().expect("it keeps its cause");
    assert_eq!(cause.downcast_ref::<E>(), Some(&error), "it is the whole error");
}

#[test]
fn errors_become_io_errors_that_keep_their_cause() {
    use io::ErrorKind::{
        AlreadyExists, ConnectionAborted, InvalidInput, OutOfMemory, QuotaExceeded,
    };
    let limits = Limits::unlimited()
        .system(ScopeLimits::unlimited().connections(2))
        .peer(ScopeLimits::unlimited().memory(512).connections(1));
    let governor = Governor::new(limits).unwrap();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let unbound = governor.inbound().try_admit().unwrap();

    let never = guard.try_lease(513).unwrap_err();
    assert!(matches!(never, LeaseError::NeverFits(_)));
    assert_becomes(never, QuotaExceeded);
    let _all = guard.handle().try_lease_owned(512).unwrap();
    let refused = guard.try_lease(512).unwrap_err();
    assert!(matches!(refused, LeaseError::Refused(_)));
    assert_becomes(refused, QuotaExceeded);
    assert_becomes(*refused.refused().unwrap(), QuotaExceeded);
    assert_becomes(governor.inbound().try_admit().unwrap_err(), QuotaExceeded);
    assert_becomes(unbound.handle().bind_peer("alice").unwrap_err(), QuotaExceeded);
    assert_becomes(guard.handle().bind_peer("alice").unwrap_err(), AlreadyExists);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("mail").unwrap();
    assert_becomes(stream.bind_class("mail").unwrap_err(), AlreadyExists);
    drop(stream);
    assert_becomes(unbound.handle().bind_peer([0; 65]).unwrap_err(), InvalidInput);
    assert_becomes(governor.inbound().peer([0; 65]).try_admit().unwrap_err(), InvalidInput);
    assert_becomes(PeerKey::new([0; 65]).unwrap_err(), InvalidInput);
    assert_becomes("6/week".parse::<Rate>().unwrap_err(), InvalidInput);

    governor.set_limits(Limits::unlimited()).unwrap();
    let too_much = unbound.try_lease(1 << 62).unwrap_err();
    assert_eq!(too_much.refused().unwrap().reason(), Reason::OutOfMemory);
    assert_becomes(too_much, OutOfMemory);

    let mut kept = unbound.handle().try_lease_owned(1).unwrap();
    unbound.handle().close().unwrap();
    assert_becomes(kept.pin().map(drop).unwrap_err(), ConnectionAborted);
    assert_becomes(unbound.try_lease(1).unwrap_err(), ConnectionAborted);
    assert_becomes(unbound.handle().bind_peer("bob").unwrap_err(), ConnectionAborted);
    assert_becomes(governor.connection(unbound.handle().id()).unwrap_err(), ConnectionAborted);
}

/// In functions with these results, `?` takes what the calls in them return.
#[test]
fn the_end_of_a_connection_converts_where_it_is_met() {
    fn pin(lease: &mut OwnedLease) -> Result<usize, LeaseError> {
        Ok(lease.pin()?.len())
    }
    fn ask(handle: &ConnectionHandle) -> Result<u64, BindError> {
        Ok(handle.usage()?.memory)
    }
    fn notice(lease: &mut OwnedLease) -> Result<usize, Closed> {
        Ok(lease.pin()?.len())
    }
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let handle = guard.handle().clone();
    let mut lease = handle.try_lease_owned(512).unwrap();
    drop(guard);
    assert_eq!(pin(&mut lease), Err(LeaseError::Closed));
    assert_eq!(ask(&handle), Err(BindError::Closed));
    assert_eq!(notice(&mut lease), Err(Closed));
}

#[test]
fn what_is_bound_twice_is_called_what_it_is() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("mail").unwrap();
    let of_connection = guard.handle().bind_peer("bob").unwrap_err();
    assert_eq!(of_connection.to_string(), "the connection already has a peer");
    let of_stream = stream.bind_class("web").unwrap_err();
    assert_eq!(of_stream.to_string(), "the stream already has a class");
}

#[test]
fn a_refusal_can_be_read_by_a_person() {
    let limits = Limits::unlimited().peer(ScopeLimits::unlimited().memory(4096));
    let governor = Governor::new(limits).unwrap();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let _half = guard.try_lease(2048).unwrap();
    assert_eq!(
        guard.handle().try_reserve(2049).unwrap_err().to_string(),
        "peer limit of 4096 bytes of memory reached: 2048 in use, 2049 requested",
    );
    assert_eq!(
        guard.handle().try_reserve(4097).unwrap_err().to_string(),
        "peer limit of 4096 bytes of memory reached: 2048 in use, 4097 requested, \
         which can never fit",
    );
}

#[test]
fn whatever_names_a_peer_is_its_key() {
    let governor = Governor::unlimited();
    let admit = |admission: Admission<'_>| {
        let guard = admission.try_admit().unwrap();
        guard.handle().usage().unwrap().peer.unwrap()
    };
    let alice = PeerKey::new("alice").unwrap();
    let inbound = || governor.inbound();
    let (text, bytes) = (String::from("alice"), b"alice".to_vec());
    assert_eq!(admit(inbound().peer("alice")), alice);
    assert_eq!(admit(inbound().peer(&text)), alice);
    assert_eq!(admit(inbound().peer(text)), alice);
    assert_eq!(admit(inbound().peer(b"alice")), alice);
    assert_eq!(admit(inbound().peer(*b"alice")), alice);
    assert_eq!(admit(inbound().peer(&b"alice"[..])), alice);
    assert_eq!(admit(inbound().peer(&bytes)), alice);
    assert_eq!(admit(inbound().peer(bytes)), alice);
    assert_eq!(admit(inbound().peer(&alice)), alice);
    assert_eq!(admit(inbound().peer(alice.clone())), alice);
    assert_eq!(admit(inbound().peer([7; 32])).as_bytes(), [7; 32]);
    let unbound = governor.inbound().try_admit().unwrap();
    unbound.handle().bind_peer(b"alice").unwrap();
    assert_eq!(unbound.handle().usage().unwrap().peer, Some(alice));
}

#[test]
fn an_address_names_a_peer_as_people_write_it() {
    let governor = Governor::unlimited();
    for (address, key) in [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("1111:2222:3333:4444:5555:6666:7777:8888", "1111:2222:3333:4444:5555:6666:7777:8888"),
    ] {
        let address: std::net::IpAddr = address.parse().unwrap();
        let known = governor.inbound().peer(address).try_admit().unwrap();
        let bound = governor.inbound().try_admit().unwrap();
        bound.handle().bind_peer(address).unwrap();
        for guard in [known, bound] {
            assert_eq!(guard.handle().usage().unwrap().peer, PeerKey::new(key).ok());
        }
    }
}

/// Keys lie in a place of a fixed size, whose rest is none of them.
#[test]
fn keys_are_equal_ordered_and_hashed_as_their_bytes() {
    use std::collections::{BTreeMap, HashMap};
    let bytes: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"b"];
    let keys = bytes.map(|bytes| PeerKey::new(bytes).unwrap());
    assert!(keys.is_sorted_by(|a, b| a < b));
    let ordered: BTreeMap<_, _> = keys.iter().cloned().zip(0..).collect();
    let hashed: HashMap<_, _> = keys.iter().cloned().zip(0..).collect();
    for (nth, bytes) in bytes.iter().enumerate() {
        assert_eq!(ordered.get(*bytes), Some(&nth));
        assert_eq!(hashed.get(*bytes), Some(&nth));
    }
}

#[test]
fn limits_take_numbers_of_both_kinds() {
    let limits = ScopeLimits::unlimited().memory(3 << 30).connections(Limit::at_most(5_usize));
    assert_eq!((limits.memory, limits.connections), (Limit::Max(3 << 30), Limit::Max(5)));
}

#[test]
#[should_panic(expected = "a rate of zero lets nothing in")]
fn a_rate_of_zero_is_a_mistake() {
    let _ = Rate::per_second(0);
}

#[test]
#[should_panic(expected = "a burst of zero lets nothing in")]
fn a_burst_of_zero_is_a_mistake() {
    let _ = Rate::per_minute(6).burst(0);
}

#[test]
fn names_of_peers_do_no_harm_in_a_log() {
    let key = PeerKey::new(b"a\nb\x1b[31m\xff").unwrap();
    assert_eq!(key.to_string(), "a\\nb\\x1b[31m\\xff");
    assert_eq!(format!("{key:?}"), "PeerKey(a\\nb\\x1b[31m\\xff)");
    let source = Source::opaque(b"pipe\n1").unwrap();
    assert_eq!(source.to_string(), "pipe\\n1");
    assert_eq!(Source::opaque([0; 65]).unwrap_err().len(), 65);
}

#[test]
fn debug_output_shows_no_leased_byte() {
    use bytes::BufMut;
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_slice(b"secret");
    assert_eq!(format!("{lease:?}"), "Lease(6 of 512 bytes)");
    let mut owned = lease.into_owned();
    assert_eq!(format!("{:?}", owned.pin().unwrap()), "Pinned(6 of 512 bytes)");
    assert_eq!(format!("{owned:?}"), "OwnedLease(6 of 512 bytes)");
    let pinned = owned.into_pinned().unwrap();
    assert_eq!(format!("{pinned:?}"), "PinnedLease(6 of 512 bytes)");
}
