//! Events of orphans and refusals: one in 30 s for each line or scope.
#![cfg(feature = "tracing")]
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{HandClock, scope};
use leasehold::{Governor, Limits};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Events {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Events {
    /// What is told while `work` runs.
    fn of(work: impl FnOnce()) -> Vec<String> {
        let events = Self::default();
        tracing::subscriber::with_default(events.clone(), work);
        events.0.lock().map(|mut events| std::mem::take(&mut *events)).unwrap()
    }
}

fn governor(clock: &HandClock, limits: Limits) -> Governor {
    Governor::builder()
        .clock(clock.clone())
        .limits(limits)
        .warn_of_orphans_older_than(Duration::from_secs(100))
        .build()
        .unwrap()
}

#[test]
fn a_guard_that_drops_before_a_lease_is_told_with_the_line() {
    let clock = HandClock::default();
    let limits = Limits::unlimited().system(scope().memory(10_000));
    let governor = governor(&clock, limits);
    let mut kept = Vec::new();
    let mut orphan = || {
        let guard = governor.inbound().try_admit().unwrap();
        kept.push(guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap());
        let at = format!("{}:{}:", file!(), line!() - 1);
        drop(guard);
        at
    };
    let mut at = String::new();
    let events = Events::of(|| at = orphan());
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains(&at), "{events:?}");
    assert!(events[0].contains("system memory: 512 of 10000"), "{events:?}");
    // The same line in the same half minute, and after.
    assert!(Events::of(|| drop(orphan())).is_empty());
    clock.turn(Duration::from_secs(31));
    governor.maintain();
    assert_eq!(Events::of(|| drop(orphan())).len(), 1);
    // What takes everything along is no event.
    assert!(Events::of(|| drop(governor.inbound().try_admit().unwrap())).is_empty());
}

#[test]
fn an_orphan_that_grows_old_is_told_of_now_and_then() {
    let clock = HandClock::default();
    let governor = governor(&clock, Limits::unlimited());
    let guard = governor.inbound().try_admit().unwrap();
    let kept = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    drop(guard);
    let mut told = Vec::new();
    for second in 1..=200 {
        clock.turn(Duration::from_secs(1));
        let events = Events::of(|| governor.maintain());
        told.extend(events.iter().map(|_| second));
    }
    assert!((3..=4).contains(&told.len()), "{told:?}");
    assert!(told[0] >= 100 && told.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{told:?}");
    drop(kept);
    clock.turn(Duration::from_secs(31));
    assert!(Events::of(|| governor.maintain()).is_empty());
}

#[test]
fn a_flood_of_refusals_is_one_event_for_each_scope() {
    let clock = HandClock::default();
    let limits = Limits::unlimited().system(scope().connections(1)).connection(scope().memory(1));
    let governor = governor(&clock, limits);
    let guard = governor.inbound().try_admit().unwrap();
    let flood = || {
        for _ in 0..1_000 {
            assert!(governor.inbound().try_admit().is_err());
            assert!(guard.try_lease(512).is_err());
        }
    };
    let events = Events::of(flood);
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.iter().all(|event| event.contains("system connections: 1 of 1")), "{events:?}");
    clock.turn(Duration::from_secs(31));
    governor.maintain();
    assert_eq!(Events::of(flood).len(), 2);
}
