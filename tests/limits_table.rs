//! P1, in every scope and for everything that it limits: what is within the limit is granted, one
//! more is refused with the numbers and charged nowhere, and a scope that only observes grants and
//! counts it.

mod common;
#[path = "limits_table/stage.rs"]
mod stage;

use common::{assert_adds_up, assert_nothing_left, counts, governor, scope};
use leasehold::{Direction, Limit, Limits, Observe, Priority, Reason, Resource, Scope};
use stage::{No, Plan, Spot, Stage, Way, name, only, plan, rows_of_the_table, unit};

/// What a refusal has to say.
#[derive(Clone, Copy)]
struct Told {
    scope: Scope,
    resource: Resource,
    limit: Limit,
    in_use: u64,
    requested: u64,
}

impl Told {
    fn reason(self) -> Reason {
        if self.limit == Limit::Blocked { Reason::Blocked } else { Reason::Limit }
    }

    #[track_caller]
    fn assert_is(self, no: &No, stage: &Stage) {
        let No { refused, message, is_lease_error } = no;
        let Told { scope, resource, limit, in_use, requested } = self;
        assert_eq!((refused.scope(), refused.resource()), (scope, resource), "{stage}: {message}");
        let numbers = (refused.limit(), refused.in_use(), refused.requested());
        assert_eq!(numbers, (limit, in_use, requested), "{stage}: {message}");
        assert_eq!(refused.reason(), self.reason(), "{stage}: {message}");
        assert_eq!(refused.priority(), Priority::Critical, "{stage}");
        assert_eq!((refused.prefix_len(), refused.retry_after()), (None, None), "{stage}");
        let (name, unit) = (name(scope), unit(resource));
        let (mut sentence, never) = match limit {
            Limit::Max(max) => (
                format!(
                    "{name} limit of {max} {unit} reached: {in_use} in use, {requested} requested"
                ),
                requested > max,
            ),
            _ => (format!("{name} limit blocks all {unit}: {requested} requested"), true),
        };
        if never && *is_lease_error {
            sentence += ", which can never fit";
        }
        assert_eq!(*message, sentence, "{stage}");
    }
}

/// What a row of the table is refused with. An admission is refused by the allow-listed scopes
/// only where the ordinary ones refused before, and says what those said.
fn told(spot: Spot, way: Way, limit: Limit, in_use: u64, requested: u64) -> Told {
    if spot.is_allowlisted() && way.is_admission() {
        let (scope, resource) = (Scope::System, Resource::Connections);
        return Told { scope, resource, limit: Limit::Max(0), in_use: 0, requested: 1 };
    }
    Told { scope: spot.scope(), resource: way.resource(), limit, in_use, requested }
}

#[test]
fn every_scope_refuses_everything_exactly_at_its_limit_plus_one() {
    let mut rows = 0;
    for (spot, way) in rows_of_the_table() {
        let Plan { limit, portions, portion, excess } = plan(spot, way);
        let stage = Stage::new(spot, way, spot.limits(only(way.resource(), limit)));
        let mut granted: Vec<_> = (0..portions).map(|nth| stage.take(nth, portion)).collect();
        assert_eq!(counts(&stage.governor.snapshot().refusals), [], "{stage}");

        let ready = stage.prepare(portions, excess);
        let before = stage.rows();
        let Err(no) = stage.ask(&ready, portions, excess) else {
            panic!("{stage}: granted beyond {limit}");
        };
        assert_eq!(stage.rows(), before, "{stage}: a refusal charged something");
        let told = told(spot, way, Limit::Max(limit), limit * u64::from(portions > 0), excess);
        told.assert_is(&no, &stage);
        let snapshot = stage.governor.snapshot();
        let row = (told.scope, told.resource, Reason::Limit, 1);
        assert_eq!(counts(&snapshot.refusals), [row], "{stage}");
        assert_eq!((snapshot.totals.refused, counts(&snapshot.observed)), (1, vec![]), "{stage}");

        // What goes makes room for as much and no more.
        if granted.pop().is_some() {
            let again = stage.ask(&ready, portions, excess);
            let again = again.unwrap_or_else(|no| panic!("{stage}: still {}", no.message));
            let rest = portion - excess;
            let last = (rest > 0).then(|| stage.take(portions + 1, rest));
            let ready = stage.prepare(portions + 2, excess);
            assert!(stage.ask(&ready, portions + 2, excess).is_err(), "{stage}: a second time");
            drop((again, last, ready));
        }
        let Stage { governor, stream, guard, .. } = stage;
        drop((granted, ready, stream, guard));
        assert_nothing_left(&governor);
        rows += 1;
    }
    assert_eq!(rows, 171, "the table is not whole");
}

#[test]
fn what_is_blocked_is_never_granted() {
    for (spot, way) in rows_of_the_table() {
        let (portion, _) = way.portions();
        let stage = Stage::new(spot, way, spot.limits(only(way.resource(), Limit::Blocked)));
        let ready = stage.prepare(0, portion);
        let before = stage.rows();
        let Err(no) = stage.ask(&ready, 0, portion) else { panic!("{stage}: granted") };
        assert_eq!(stage.rows(), before, "{stage}: a refusal charged something");
        let told = told(spot, way, Limit::Blocked, 0, portion);
        told.assert_is(&no, &stage);
        let snapshot = stage.governor.snapshot();
        let row = (told.scope, told.resource, told.reason(), 1);
        assert_eq!(counts(&snapshot.refusals), [row], "{stage}");
        assert_eq!(counts(&snapshot.observed), [], "{stage}");
    }
}

#[test]
fn a_scope_that_only_observes_grants_and_counts_once() {
    for (spot, way) in rows_of_the_table() {
        let Plan { limit, portions, portion, excess } = plan(spot, way);
        let limits = spot.limits(only(way.resource(), limit));
        let limits = limits.observe(Observe::none().scope(spot.scope()));
        let stage = Stage::new(spot, way, limits);
        let granted: Vec<_> = (0..portions).map(|nth| stage.take(nth, portion)).collect();
        assert_eq!(counts(&stage.governor.snapshot().observed), [], "{stage}: within its limit");
        let beyond = stage.take(portions, excess);
        let snapshot = assert_adds_up(&stage.governor);
        let row = (spot.scope(), way.resource(), Reason::Limit, 1);
        assert_eq!(counts(&snapshot.observed), [row], "{stage}");
        assert_eq!((counts(&snapshot.refusals), snapshot.totals.refused), (vec![], 0), "{stage}");
        let Stage { governor, stream, guard, .. } = stage;
        drop((granted, beyond, stream, guard));
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_scope_that_only_observes_grants_what_is_blocked_and_counts_once() {
    for (spot, way) in rows_of_the_table() {
        let limits = spot.limits(only(way.resource(), Limit::Blocked));
        let stage = Stage::new(spot, way, limits.observe(Observe::none().scope(spot.scope())));
        let _granted = stage.take(0, way.portions().0);
        let snapshot = assert_adds_up(&stage.governor);
        let row = (spot.scope(), way.resource(), Reason::Blocked, 1);
        assert_eq!(counts(&snapshot.observed), [row], "{stage}");
        assert_eq!(counts(&snapshot.refusals), [], "{stage}");
    }
}

#[test]
fn a_governor_that_only_observes_grants_and_counts_once() {
    for (spot, way) in rows_of_the_table() {
        // Who is refused nothing by the ordinary scopes never comes to the allow-listed ones.
        if spot.is_allowlisted() && way.is_admission() {
            continue;
        }
        let Plan { limit, portions, portion, excess } = plan(spot, way);
        let limits = spot.limits(only(way.resource(), limit));
        let observed = limits.clone().observe(Observe::everything());
        let first = if spot.is_allowlisted() { limits } else { observed.clone() };
        let stage = Stage::new(spot, way, first);
        stage.governor.set_limits(observed).unwrap();
        let _granted: Vec<_> = (0..portions).map(|nth| stage.take(nth, portion)).collect();
        assert_eq!(counts(&stage.governor.snapshot().observed), [], "{stage}: within its limit");
        let _beyond = stage.take(portions, excess);
        let snapshot = assert_adds_up(&stage.governor);
        let row = (spot.scope(), way.resource(), Reason::Limit, 1);
        assert_eq!(counts(&snapshot.observed), [row], "{stage}");
        assert_eq!((counts(&snapshot.refusals), snapshot.totals.refused), (vec![], 0), "{stage}");
    }
}

#[test]
fn a_scope_that_only_observes_does_not_open_the_others() {
    let limits = Limits::unlimited()
        .system(scope().memory(1000))
        .peer(scope().memory(500))
        .observe(Observe::none().scope(Scope::Peer));
    let governor = governor(limits);
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let _beyond_the_peer = guard.handle().try_reserve(900).unwrap();
    let error = guard.handle().try_reserve(101).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::System);
    let snapshot = governor.snapshot();
    let observed = (Scope::Peer, Resource::Memory, Reason::Limit, 1);
    assert_eq!(counts(&snapshot.observed), [observed], "what was refused is not observed too");
    let refused = (Scope::System, Resource::Memory, Reason::Limit, 1);
    assert_eq!(counts(&snapshot.refusals), [refused]);
}

#[test]
fn every_scope_that_observes_counts_a_request_of_its_own() {
    let limits = Limits::unlimited()
        .system(scope().memory(1))
        .peer(scope().memory(1))
        .class_default(scope().memory(1))
        .class_peer_default(scope().memory(1))
        .connection(scope().memory(1))
        .stream(scope().memory(1))
        .observe(Observe::everything());
    let governor = governor(limits);
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let _beyond = stream.try_reserve(2).unwrap();
    let scopes = [
        Scope::System,
        Scope::Peer,
        Scope::Class,
        Scope::ClassPeer,
        Scope::Connection,
        Scope::Stream,
    ];
    let rows = scopes.map(|scope| (scope, Resource::Memory, Reason::Limit, 1));
    assert_eq!(counts(&governor.snapshot().observed), rows);
}
