//! What is published is what there is: to the byte at rest, never falling, the same series for any
//! crowd.
#![cfg(feature = "metrics")]
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;
#[path = "common/recorder.rs"]
mod recorder;

use std::collections::BTreeSet;
use std::mem::forget;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;
use common::counting::{self, Counting};
use common::{HandClock, KIB, governor, scope};
use leasehold::{Direction, Governor, Limits, Observe, Scope};
use recorder::Kept;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 6] = [512, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 300 << 10];

/// The labels of the sizes, as they are published.
const LABELS: [&str; 6] =
    ["size=512", "size=2048", "size=4096", "size=16384", "size=65536", "size=large"];

#[track_caller]
fn assert_conserved(kept: &Kept) {
    for label in LABELS {
        let leased = kept.counter("leasehold_leased_bytes_total", &[label]);
        let returned = kept.counter("leasehold_returned_bytes_total", &[label]);
        let outstanding = kept.gauge("leasehold_outstanding_bytes", &[label]);
        assert_eq!((leased - returned) as f64, outstanding, "{label}");
    }
}

#[test]
fn at_rest_leased_less_returned_is_outstanding_for_every_size_and_recorder() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut kept_leases = Vec::new();
    let one = Kept::default();
    for round in 0..3 {
        for len in SIZES {
            let leases: Vec<_> = (0..20).map(|_| guard.try_lease(len).unwrap()).collect();
            drop(leases);
            kept_leases.push(guard.handle().try_lease_owned(len).unwrap());
        }
        one.publish_again(&governor);
        for kept in [&one, &Kept::publish(&governor), &Kept::publish(&governor)] {
            assert_conserved(kept);
            let outstanding = kept.gauge("leasehold_outstanding_bytes", &["size=4096"]);
            assert_eq!(outstanding, (4 * KIB * (round + 1)) as f64);
            assert_eq!(
                kept.counter("leasehold_leased_bytes_total", &["size=512"]),
                512 * 21 * (round + 1)
            );
        }
    }
    let frozen = kept_leases.pop().unwrap().into_pinned().unwrap().freeze();
    drop(guard);
    one.publish_again(&governor);
    assert_conserved(&one);
    assert_eq!(one.counter("leasehold_revoked_leases_total", &[]), 17);
    drop((frozen, kept_leases));
    let kept = Kept::publish(&governor);
    assert_conserved(&kept);
    assert_eq!(kept.gauge("leasehold_outstanding_bytes", &[]), 0.0);
    assert_eq!(kept.gauge("leasehold_idle_bytes", &[]), 0.0);
}

#[test]
fn used_reserved_idle_pinned_and_orphaned_are_figures_of_their_own() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    drop(guard.try_lease(512).unwrap());
    let _reserved = guard.handle().try_reserve(100).unwrap();
    let mut detached = guard.try_lease(4096).unwrap();
    detached.put_bytes(1, 4096);
    let detached = detached.freeze();
    let pinned = guard.handle().try_lease_owned(4096).unwrap().into_pinned().unwrap();
    let _stream = guard.handle().try_open_stream(Direction::Outbound).unwrap();
    let kept = Kept::publish(&governor);
    assert_eq!(kept.gauge("leasehold_idle_bytes", &["size=512"]), 512.0);
    assert_eq!(kept.gauge("leasehold_reserved_bytes", &[]), 100.0);
    assert_eq!(kept.gauge("leasehold_detached_bytes", &[]), 4096.0);
    assert_eq!(kept.gauge("leasehold_pinned_leases", &[]), 1.0);
    assert_eq!(kept.gauge("leasehold_outstanding_bytes", &[]), 8192.0);
    assert_eq!(kept.gauge("leasehold_orphans", &[]), 0.0);
    let system = "scope=system";
    assert_eq!(kept.gauge("leasehold_streams", &[system, "direction=outbound"]), 1.0);
    assert_eq!(kept.gauge("leasehold_connections", &[system, "direction=inbound"]), 1.0);
    assert_eq!(kept.gauge("leasehold_fds", &[system]), 1.0);
    let used = kept.gauge("leasehold_usage", &[system, "resource=memory"]);
    assert_eq!(used, 8192.0 + 512.0 + 100.0);
    drop(guard);
    let kept = Kept::publish(&governor);
    assert_eq!(kept.gauge("leasehold_orphans", &[]), 2.0);
    assert_eq!(kept.gauge("leasehold_orphaned_bytes", &[]), 8192.0);
    assert_eq!(kept.gauge("leasehold_reserved_bytes", &[]), 0.0);
    assert_eq!(kept.gauge("leasehold_connections", &[system, "direction=inbound"]), 0.0);
    drop((pinned, detached));
    assert_eq!(Kept::publish(&governor).gauge("leasehold_orphans", &[]), 0.0);
}

#[test]
fn what_was_forgotten_and_taken_back_counts_as_leaked() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    forget(guard.try_lease(4096).unwrap());
    forget(guard.try_lease(300 << 10).unwrap());
    drop(guard);
    let kept = Kept::publish(&governor);
    assert_eq!(kept.counter("leasehold_leaked_bytes_total", &[]), (4 + 300) * KIB);
    assert_eq!(kept.counter("leasehold_revoked_leases_total", &[]), 0);
    assert_conserved(&kept);
}

#[test]
fn a_lease_that_is_pinned_at_the_close_is_revoked_when_it_is_unpinned() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let pin = lease.pin().unwrap();
    guard.handle().close().unwrap();
    assert_eq!(Kept::publish(&governor).counter("leasehold_revoked_leases_total", &[]), 0);
    drop(pin);
    assert_eq!(Kept::publish(&governor).counter("leasehold_revoked_leases_total", &[]), 1);
    assert_eq!(governor.snapshot().totals.revoked_leases, 1);
}

#[test]
fn limits_stand_beside_use_and_move_when_they_are_changed() {
    let limits = |memory| {
        let system = scope().memory(memory).connections(2);
        Limits::unlimited().system(system).observe(Observe::none().scope(Scope::Transient))
    };
    let governor = governor(limits(1000));
    let limit =
        |resource| Kept::publish(&governor).gauge("leasehold_limit", &["scope=system", resource]);
    assert_eq!(limit("resource=memory"), 1000.0);
    assert_eq!(limit("resource=streams"), f64::INFINITY);
    governor.set_limits(limits(2000)).unwrap();
    assert_eq!(limit("resource=memory"), 2000.0);
    let guards: Vec<_> = (0..4).map(|_| governor.inbound().try_admit()).collect();
    let kept = Kept::publish(&governor);
    assert_eq!(kept.counter("leasehold_admissions_total", &[]), 2);
    let labels = ["scope=system", "resource=connections", "reason=limit"];
    assert_eq!(kept.counter("leasehold_refusals_total", &labels), 2);
    assert_eq!(kept.counter("leasehold_observed_refusals_total", &[]), 0);
    drop(guards);
}

#[test]
fn connections_that_ended_are_samples_of_their_age_and_peak() {
    let clock = HandClock::default();
    let governor = Governor::builder().clock(clock.clone()).build().unwrap();
    let kept = Kept::default();
    let end = |seconds, bytes| {
        let guard = governor.inbound().weight(bytes).try_admit().unwrap();
        let _lease = guard.try_lease(512).unwrap();
        clock.turn(Duration::from_secs(seconds));
        governor.maintain();
    };
    end(7, 0);
    end(7, 5 * KIB);
    // Without a recorder nothing is lost.
    governor.publish_metrics();
    kept.publish_again(&governor);
    kept.publish_again(&governor);
    end(1_000_000, 10 << 30);
    kept.publish_again(&governor);
    let samples = |name: &str| {
        let samples = kept.samples.lock().unwrap();
        let [samples] = samples
            .iter()
            .filter(|((of, _), _)| of == name)
            .map(|(_, samples)| samples.clone())
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        samples
    };
    assert_eq!(samples("leasehold_connection_seconds"), [(10.0, 2), (2.0 * 86400.0, 1)]);
    let peaks = [(1024.0, 1), (16384.0, 1), (2.0 * 1024.0 * 1024.0 * 256.0, 1)];
    assert_eq!(samples("leasehold_connection_peak_bytes"), peaks);
}

#[test]
fn governors_of_one_process_are_told_apart() {
    let named = Governor::builder().name("edge").build().unwrap();
    let others = [Governor::unlimited(), Governor::unlimited()];
    let kept = Kept::publish(&named);
    others.iter().for_each(|governor| kept.publish_again(governor));
    let names: BTreeSet<_> =
        kept.series().into_iter().map(|(_, labels)| labels[0].clone()).collect();
    assert_eq!(names.len(), 3);
    assert!(names.contains("governor=edge"));
    assert!(others.iter().all(|other| names.contains(&format!("governor={}", other.name()))));
}

#[test]
fn maintenance_publishes() {
    let governor = Governor::unlimited();
    let kept = Kept::default();
    metrics::with_local_recorder(&kept, || governor.maintain());
    assert_eq!(kept.counter("leasehold_admissions_total", &[]), 0);
    assert!(kept.series().len() > 50);
}

#[test]
fn every_metric_is_described_and_named_as_prometheus_wants() {
    let limits = Limits::unlimited()
        .system(scope().connections(0))
        .transient(scope().streams(0))
        .observe(Observe::none().scope(Scope::System));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    assert!(guard.handle().try_open_stream(Direction::Inbound).is_err());
    drop(guard);
    let kept = Kept::publish(&governor);
    let described = kept.described.lock().unwrap();
    for (name, _) in kept.series() {
        let (unit, help) = &described[&name];
        assert!(unit.is_some() && help.ends_with('.'), "{name}");
        let is_counter = kept.counters.lock().unwrap().keys().any(|(of, _)| *of == name);
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
    }
    let published: BTreeSet<_> = kept.series().into_iter().map(|(name, _)| name).collect();
    assert_eq!(published, described.keys().cloned().collect(), "the table in the docs is complete");
}

/// P12: no label whose values a remote peer controls.
#[test]
fn a_crowd_with_hostile_names_makes_no_series() {
    let governor = governor(Limits::unlimited().peer(scope().connections(1)));
    let before = Kept::publish(&governor).series();
    let mut guards = Vec::new();
    for nth in 0..2_000_u32 {
        let mut key = b"\"\n\\{evil=\"\xff\xfe".to_vec();
        key.extend(nth.to_le_bytes());
        let class = format!("class\n\"{nth}\"");
        let admission = governor.inbound().peer(&key[..]).class(&class);
        let address = std::net::IpAddr::from([10, 0, (nth >> 8) as u8, nth as u8]);
        let guard = admission.remote(address).try_admit().unwrap();
        drop(guard.try_lease(512).unwrap());
        guards.push(guard);
    }
    assert_eq!(Kept::publish(&governor).series(), before);
    drop(guards);
    assert_eq!(Kept::publish(&governor).series(), before);
}

#[test]
fn publication_allocates_the_same_however_many_connections_there_are() {
    let governor = Governor::unlimited();
    let kept = Kept::publish(&governor);
    let mut guards = Vec::new();
    let mut calls_of = |count| {
        guards.resize_with(count, || {
            let guard = governor.inbound().try_admit().unwrap();
            drop(guard.try_lease(512).unwrap());
            guard
        });
        let (calls, live) = (counting::calls(), counting::live_bytes());
        kept.publish_again(&governor);
        assert_eq!(counting::live_bytes(), live);
        counting::calls() - calls
    };
    assert_eq!(calls_of(10), calls_of(5_000));
}

#[test]
fn no_counter_falls_while_connections_close_and_counts_are_folded() {
    let governor = Governor::unlimited();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let guards: Vec<_> =
                        (0..50).map(|_| governor.inbound().try_admit().unwrap()).collect();
                    for guard in &guards {
                        SIZES[..3].iter().for_each(|len| drop(guard.try_lease(*len).unwrap()));
                    }
                    // Fifteen bits run full.
                    (0..20_000).for_each(|_| drop(guards[0].try_lease(512).unwrap()));
                }
            });
        }
        // The recorder fails if it is given less than it has.
        let kept = Kept::default();
        for _ in 0..100 {
            kept.publish_again(&governor);
            Kept::publish(&governor);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let kept = Kept::publish(&governor);
    assert_conserved(&kept);
    assert_eq!(kept.gauge("leasehold_outstanding_bytes", &[]), 0.0);
    let totals = governor.snapshot().totals;
    assert_eq!(kept.counter("leasehold_leased_bytes_total", &[]), totals.leased_bytes);
}
