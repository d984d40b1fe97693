//! P6, a refusal closes: whoever is refused hands its transport over by doing so.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{governor, scope};
use leasehold::{AdmitError, Governor, Limits, Resource, Scope};

/// A socket that tells how often it was closed.
struct Transport(Rc<Cell<u32>>);

impl Drop for Transport {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn transport() -> (Transport, Rc<Cell<u32>>) {
    let closed = Rc::new(Cell::new(0));
    (Transport(closed.clone()), closed)
}

fn full() -> Governor {
    governor(Limits::unlimited().system(scope().connections(0)))
}

#[test]
fn a_refused_transport_is_closed_once_by_the_call_that_refuses() {
    let (transport, closed) = transport();
    let result = full().inbound().try_govern_or_else(transport, |_, _| ());
    assert!(result.is_err());
    assert_eq!(closed.get(), 1);
}

#[test]
fn on_refuse_has_the_transport_to_itself_once() {
    let (transport, closed) = transport();
    let mut kept = Vec::new();
    let result = full().inbound().try_govern_or_else(transport, |transport, error| {
        assert_eq!(closed.get(), 0);
        assert_eq!(error.refused().unwrap().scope(), Scope::System);
        assert_eq!(error.refused().unwrap().resource(), Resource::Connections);
        kept.push(transport);
    });
    assert!(result.is_err());
    assert_eq!((kept.len(), closed.get()), (1, 0), "moved on, not closed");
    drop(kept);
    assert_eq!(closed.get(), 1);
}

#[test]
fn a_name_that_is_too_long_closes_too() {
    let long = "x".repeat(65);
    let governor = Governor::unlimited();
    for admission in [
        governor.inbound().peer(&long),
        governor.inbound().class(&long),
        governor.inbound().peer(&long).peer("short"),
    ] {
        let (transport, closed) = transport();
        let calls = Cell::new(0);
        let result = admission.try_govern_or_else(transport, |_, error| {
            calls.set(calls.get() + 1);
            assert!(matches!(error, AdmitError::NameTooLong(name) if name.len() == 65));
        });
        assert!(matches!(result, Err(AdmitError::NameTooLong(_))));
        assert_eq!((calls.get(), closed.get()), (1, 1));
    }
    common::assert_nothing_left(&governor);
}

#[test]
fn an_admitted_transport_comes_back_untouched() {
    let (transport, closed) = transport();
    let governor = Governor::unlimited();
    let admission = governor.inbound();
    let (guard, transport) = admission
        .try_govern_or_else(transport, |_, _| panic!("nothing was refused"))
        .unwrap_or_else(|error| panic!("{error}"))
        .into_parts();
    assert_eq!(closed.get(), 0);
    assert_eq!(governor.snapshot().totals.connections, 1);
    drop(guard);
    assert_eq!(closed.get(), 0, "the transport is the caller's");
    drop(transport);
    assert_eq!(closed.get(), 1);
}

#[test]
fn a_refused_weight_closes_and_leaves_no_charge() {
    let governor = governor(Limits::unlimited().transient(scope().memory(100)));
    let (transport, closed) = transport();
    assert!(governor.inbound().weight(101).try_govern_or_else(transport, |_, _| ()).is_err());
    assert_eq!(closed.get(), 1);
    common::assert_nothing_left(&governor);
}

#[test]
fn a_panic_in_on_refuse_closes_too() {
    let (transport, closed) = transport();
    let governor = full();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = governor.inbound().try_govern_or_else(transport, |_, _| {
            std::panic::resume_unwind(Box::new("refused"));
        });
    }));
    assert!(caught.is_err());
    assert_eq!(closed.get(), 1);
    common::assert_nothing_left(&governor);
}
