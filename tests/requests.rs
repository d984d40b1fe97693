//! What is requested can say at which priority, and in whose name.

mod common;

use std::panic::Location;
use std::time::Duration;

use common::{HandClock, KIB, governor, scope};
use leasehold::{
    ConnectionGuard, ConnectionHandle, Direction, Governor, LeaseError, Limits, OwnedLease,
    PinnedLease, Priority, Reservation, StreamGuard,
};

/// The line that calls.
#[track_caller]
fn here() -> &'static Location<'static> {
    Location::caller()
}

/// An adapter, for which the line that wrapped the transport makes every request.
struct Adapter {
    handle: ConnectionHandle,
    wrapped_at: &'static Location<'static>,
}

impl Adapter {
    #[track_caller]
    fn wrap(handle: &ConnectionHandle) -> Self {
        Self { handle: handle.clone(), wrapped_at: Location::caller() }
    }

    fn reserve(&self) -> Result<Reservation, LeaseError> {
        self.handle.request().site(self.wrapped_at).try_reserve(1)
    }

    fn open(&self) -> Result<StreamGuard, LeaseError> {
        self.handle.request().site(self.wrapped_at).try_open_stream(Direction::Inbound)
    }
}

#[test]
fn leases_are_made_by_the_line_that_calls_or_the_one_that_is_named() {
    let named = here();
    type Lease<'a> = &'a dyn Fn(&ConnectionGuard) -> PinnedLease;
    let pin = |lease: OwnedLease| lease.into_pinned().unwrap();
    let stream =
        |guard: &ConnectionGuard| guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let leases: [(Lease, _); 9] = [
        (&|guard| pin(guard.try_lease(1).unwrap().into_owned()), here()),
        (&|guard| pin(guard.request().try_lease(1).unwrap().into_owned()), here()),
        (&|guard| pin(guard.handle().try_lease_owned(1).unwrap()), here()),
        (&|guard| pin(guard.handle().request().try_lease_owned(1).unwrap()), here()),
        (&|guard| pin(stream(guard).try_lease_owned(1).unwrap()), here()),
        (&|guard| pin(stream(guard).request().try_lease_owned(1).unwrap()), here()),
        (&|guard| pin(guard.request().site(named).try_lease(1).unwrap().into_owned()), named),
        (&|guard| pin(guard.handle().request().site(named).try_lease_owned(1).unwrap()), named),
        (&|guard| pin(stream(guard).request().site(named).try_lease_owned(1).unwrap()), named),
    ];
    for (lease, site) in leases {
        let governor = Governor::unlimited();
        let guard = governor.inbound().try_admit().unwrap();
        let kept = lease(&guard);
        drop(guard);
        let orphans = governor.snapshot().orphans;
        assert_eq!((orphans.len(), orphans[0].site.line()), (1, site.line()));
        drop(kept);
    }
}

#[test]
fn reservations_and_streams_know_the_line_that_made_them() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let (reserved, line) = (guard.handle().try_reserve(1).unwrap(), here());
    assert_eq!(reserved.site().line(), line.line());
    let (stream, line) = (guard.handle().try_open_stream(Direction::Inbound).unwrap(), here());
    assert_eq!(stream.site().line(), line.line());
    let (reserved, line) = (stream.try_reserve(1).unwrap(), here());
    assert_eq!(reserved.site().line(), line.line());

    let (adapter, line) = (Adapter::wrap(guard.handle()), here());
    assert_eq!(adapter.reserve().unwrap().site().line(), line.line());
    assert_eq!(adapter.open().unwrap().site().line(), line.line());
    let reserved = stream.request().site(line).try_reserve(1).unwrap();
    assert_eq!(reserved.site(), line);
}

#[test]
fn reservations_and_streams_age() {
    let clock = HandClock::default();
    let governor = Governor::builder().clock(clock.clone()).build().unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let reserved = stream.try_reserve(1).unwrap();
    assert_eq!((stream.age(), reserved.age()), (Duration::ZERO, Duration::ZERO));
    clock.turn(Duration::from_secs(3));
    governor.maintain();
    let seconds = Duration::from_secs(3);
    assert_eq!((stream.age(), reserved.age()), (seconds, seconds));
}

#[test]
fn a_priority_is_the_requests_own() {
    let limits = Limits::unlimited().connection(scope().memory(10 * KIB));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let low = || guard.handle().request().priority(Priority::Low);
    assert!(low().try_reserve(4 * KIB + 1).is_err());
    assert!(low().try_lease_owned(16 << 10).is_err());
    let mut reserved = low().try_reserve(4 * KIB).unwrap();
    assert!(reserved.resize(4 * KIB + 1).is_err(), "it grows at the priority that it has");
    assert!(guard.handle().try_reserve(6 * KIB).is_ok(), "the plain call has the highest");
    assert!(guard.handle().request().try_reserve(6 * KIB).is_ok(), "and so has a plain request");
}

#[test]
fn a_stream_knows_its_connection_and_its_end() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    assert_eq!(stream.handle().id(), guard.handle().id());
    assert!(!stream.handle().is_closed());
    drop(guard);
    assert!(stream.handle().is_closed());
    assert_eq!(stream.try_lease_owned(1).unwrap_err(), LeaseError::Closed);
}
