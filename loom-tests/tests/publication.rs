//! Publishing metrics against what counts meanwhile.
//!
//! A thread publishes while another leases, folds, or ends the connection. No counter falls from one
//! publication to the next, none is above what was counted in the end, and at rest leased less returned
//! is what is out. Two threads, four preemptions.

#[path = "../../tests/common/recorder.rs"]
#[allow(dead_code, clippy::disallowed_types, reason = "the models use a part of it")]
mod recorder;

use leasehold::{ConnectionGuard, Governor, Limits};
use loom_tests::{Bounds, Mark, admit, all_back, bytes, governor, lease, model, race};
use recorder::Kept;

const LEASED: &str = "leasehold_leased_bytes_total";
const RETURNED: &str = "leasehold_returned_bytes_total";
const OUTSTANDING: &str = "leasehold_outstanding_bytes";

/// Publishes before, beside and after `work`, which leases so many blocks. The recorder fails if a
/// counter falls.
fn against(name: &str, leases: u64, work: impl Fn(ConnectionGuard) + Copy + Send + Sync + 'static) {
    model(name, Bounds::preemptions(4), move || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        drop(lease(&guard));
        let kept = Kept::publish(&governor);
        let published = publish_beside(&kept, &governor, guard, work);
        assert!(published <= bytes(1 + leases));
        kept.publish_again(&governor);
        for kept in [&kept, &Kept::publish(&governor)] {
            assert_eq!(kept.counter(LEASED, &[]), bytes(1 + leases));
            assert_eq!(kept.counter(RETURNED, &[]), bytes(1 + leases));
            assert_eq!(kept.gauge(OUTSTANDING, &[]), 0.0);
        }
        all_back(&governor);
    });
}

fn publish_beside(
    kept: &Kept,
    governor: &Governor,
    guard: ConnectionGuard,
    work: impl Fn(ConnectionGuard) + Send + 'static,
) -> u64 {
    let publish = || {
        kept.publish_again(governor);
        kept.counter(LEASED, &[])
    };
    race(publish, move || work(guard)).0
}

#[test]
fn publication_against_close() {
    against("publication_against_close", 1, |guard| {
        let mut lease = lease(&guard);
        lease.mark(1);
        drop(lease);
        drop(guard);
    });
}

#[test]
fn publication_against_fold() {
    against("publication_against_fold", 1, |guard| {
        drop(lease(&guard));
        // Folds the counts.
        guard.handle().trim();
        drop(guard);
    });
}

#[test]
fn publication_against_a_revoked_lease() {
    against("publication_against_a_revoked_lease", 1, |guard| {
        let owned = lease(&guard).into_owned();
        drop(guard);
        drop(owned);
    });
}

/// Two publications at once: each connection is added up once in each.
#[test]
fn two_publications_at_once() {
    model("two_publications_at_once", Bounds::preemptions(4), || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        drop(lease(&guard));
        let _out = lease(&guard).into_owned();
        let other = governor.clone();
        let read = |kept: &Kept| {
            assert_eq!(kept.counter(LEASED, &[]), bytes(2));
            assert_eq!(kept.gauge(OUTSTANDING, &[]), bytes(1) as f64);
        };
        race(|| read(&Kept::publish(&governor)), move || read(&Kept::publish(&other)));
    });
}
