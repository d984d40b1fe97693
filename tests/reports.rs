//! The report and `wait_quiescent` name the line that holds something, and no name does harm in them.

mod common;

use std::mem::forget;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::BufMut;
use common::{HandClock, governor, scope};
use leasehold::{
    ConnectionGuard, Direction, Governor, Limits, Names, Observe, Report, ReportOptions, Resource,
    Scope, Site,
};

fn report(governor: &Governor) -> Report {
    governor.report(&ReportOptions::default())
}

fn admit(governor: &Governor) -> ConnectionGuard {
    governor.inbound().try_admit().unwrap()
}

fn has(sites: &[Site], line: u32, kind: &str, orphaned: bool) -> bool {
    let at = format!("{}:{line}:", file!());
    let named = |site: &&Site| site.site.starts_with(&at);
    sites.iter().filter(named).any(|site| (site.kind, site.orphaned) == (kind, orphaned))
}

/// What was planted is named with its line, by the report and at the end of a test; and when it goes,
/// nothing is.
#[track_caller]
fn assert_named(governor: &Governor, line: u32, kind: &str, orphaned: bool) {
    let error = governor.wait_quiescent(Duration::ZERO).unwrap_err();
    assert!(has(error.sites(), line, kind, orphaned), "line {line} is not in: {error}");
    let report = report(governor);
    assert!(has(&report.sites, line, kind, orphaned), "line {line} is not in: {report}");
    assert!(has(&report.oldest, line, kind, orphaned));
    assert!(report.to_string().contains(&format!("{}:{line}:", file!())));
}

#[test]
fn a_forgotten_guard_is_named() {
    let governor = Governor::unlimited();
    forget(admit(&governor));
    let admitted = line_of("fn admit(") + 1;
    assert_named(&governor, admitted, "connection", false);
}

/// The line on which this file says so for the first time.
fn line_of(text: &str) -> u32 {
    let lines = include_str!("reports.rs").lines();
    lines.take_while(|line| !line.contains(text)).count() as u32 + 1
}

#[test]
fn leases_that_are_kept_are_named_in_every_form() {
    let governor = Governor::unlimited();
    let guard = admit(&governor);
    let owned = guard.handle().try_lease_owned(512).unwrap();
    assert_named(&governor, line!() - 1, "owned", false);
    let pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    assert_named(&governor, line!() - 1, "pinned", false);
    forget(guard.try_lease(512).unwrap());
    assert_named(&governor, line!() - 1, "borrowed", false);
    let mut lease = guard.try_lease(4096).unwrap();
    let leased = line!() - 1;
    lease.put_bytes(0, 4096);
    let detached = lease.freeze();
    assert_named(&governor, leased, "detached", false);
    let mut large = guard.handle().try_lease_owned(1 << 20).unwrap();
    let leased_large = line!() - 1;
    let pin = large.pin().unwrap();
    assert_named(&governor, leased_large, "pinned", false);

    drop(guard);
    let error = governor.wait_quiescent(Duration::ZERO).unwrap_err();
    assert_eq!(error.sites().len(), 3, "{error}");
    assert_named(&governor, leased, "detached", true);
    assert_named(&governor, leased_large, "pinned", true);
    drop((owned, pinned, detached, pin));
    governor.assert_quiescent();
}

#[test]
fn a_lease_that_noted_nothing_is_not_blamed_on_the_line_before() {
    let governor = Governor::unlimited();
    let guard = admit(&governor);
    drop(guard.try_lease(512).unwrap());
    let before = format!("{}:{}:", file!(), line!() - 1);
    let mut owned = guard.handle().try_lease_owned(512).unwrap();
    let sites = report(&governor).sites;
    assert!(sites.iter().all(|site| !site.site.starts_with(&before)), "{sites:?}");
    let row = sites.iter().find(|site| site.kind == "owned").unwrap();
    let admitted = format!("{}:{}:", file!(), line_of("fn admit(") + 1);
    assert!(row.site.starts_with(&admitted), "{row}");
    assert!(row.perhaps.as_ref().unwrap().starts_with(&before), "{row}");
    let pin = owned.pin().unwrap();
    assert_named(&governor, line_of("let mut owned = guard"), "pinned", false);
    drop(pin);
}

#[test]
fn a_stream_that_is_never_closed_is_named() {
    let governor = Governor::unlimited();
    let guard = admit(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    assert_named(&governor, line!() - 1, "stream", false);
    drop(stream);
    assert!(report(&governor).sites.iter().all(|site| site.kind != "stream"));
}

#[test]
fn assert_quiescent_fails_with_the_line() {
    let governor = Governor::unlimited();
    let guard = admit(&governor);
    let panic = catch_unwind(AssertUnwindSafe(|| governor.assert_quiescent())).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains(&format!("{}:{}:", file!(), line_of("fn admit(") + 1)), "{message}");
    // An idle block is not what is held, nor is a connection that is gone.
    drop(guard.try_lease(512).unwrap());
    drop(guard);
    governor.assert_quiescent();
}

#[test]
fn what_drops_soon_is_waited_for() {
    let governor = Governor::unlimited();
    let guard = admit(&governor);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| governor.wait_quiescent(Duration::from_secs(60)));
        drop(guard);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn the_bottleneck_is_the_fullest_limit_and_says_what_would_have_to_give() {
    let limits = Limits::unlimited()
        .system(scope().memory(100_000).connections(10))
        .transient(scope().connections(4))
        .peer(scope().streams(2));
    let clock = HandClock::default();
    let governor = Governor::builder().limits(limits).clock(clock.clone()).build().unwrap();
    assert_eq!(report(&governor).bottleneck.unwrap().utilization, 0.0);

    let unbound = [admit(&governor), admit(&governor), admit(&governor)];
    clock.turn(Duration::from_secs(90));
    let report_now = report(&governor);
    let bottleneck = report_now.bottleneck.as_ref().unwrap();
    assert_eq!((bottleneck.scope, bottleneck.resource), (Scope::Transient, Resource::Connections));
    assert_eq!((bottleneck.usage, bottleneck.limit), (3, Some(4)));
    let advice = bottleneck.advice.as_deref().unwrap();
    assert!(advice.contains("90.0 s"), "{advice}");
    assert_eq!(report_now.transient.len(), 3);
    assert_eq!(report_now.transient[0].age_seconds, 90.0);
    drop(unbound);

    let peer = governor.inbound().peer("alice").try_admit().unwrap();
    let _reserved = peer.handle().try_reserve(90_000).unwrap();
    let bottleneck = report(&governor).bottleneck.unwrap();
    assert_eq!((bottleneck.scope, bottleneck.resource), (Scope::System, Resource::Memory));
    let advice = bottleneck.advice.unwrap();
    assert!(advice.contains("alice has the most, 90000"), "{advice}");
    let _streams = [Direction::Inbound, Direction::Outbound]
        .map(|direction| peer.handle().try_open_stream(direction).unwrap());
    let bottleneck = report(&governor).bottleneck.unwrap();
    assert_eq!((bottleneck.scope, bottleneck.name.as_deref()), (Scope::Peer, Some("alice")));
    assert_eq!(bottleneck.utilization, 1.0);
    assert!(report(&Governor::unlimited()).bottleneck.is_none());

    let mut limits = governor.limits();
    limits.observe = Observe::none().scope(Scope::Peer);
    governor.set_limits(limits).unwrap();
    let bottleneck = report(&governor).bottleneck.unwrap();
    assert_eq!(bottleneck.scope, Scope::System, "a scope that only observes refuses nothing");
}

#[test]
fn groups_are_sorted_by_bytes_and_cut() {
    let governor = Governor::unlimited();
    let guards: Vec<_> = (1..=30_u64)
        .map(|nth| {
            let admission = governor.inbound().class(if nth % 2 == 0 { "even" } else { "odd" });
            admission.peer(format!("peer{nth}")).weight(nth * 100).try_admit().unwrap()
        })
        .collect();
    let report = governor.report(&ReportOptions::default().rows(3));
    let names: Vec<_> = report.peers.iter().map(|group| group.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["peer30", "peer29", "peer28"]);
    assert_eq!(report.classes[0].name.as_deref(), Some("even"));
    assert_eq!(report.classes[0].bytes, (1..=15).map(|nth| nth * 200).sum::<u64>());
    assert_eq!(report.connections[0].bytes, 3000);
    let scopes: u64 = report.scopes[..1].iter().map(|scope| scope.usage).sum();
    assert_eq!(scopes, report.memory.reserved_bytes);
    assert!(report.transient.is_empty());
    drop(guards);
}

#[test]
fn hostile_names_are_escaped_hashed_or_left_out() {
    let limits = Limits::unlimited().peer(scope().memory(1 << 20));
    let governor = governor(limits);
    let key = b"\"\n\r\x1b[31m<script>\xff\x00";
    let class = "class\n\u{202e}\u{7f}";
    let address = IpAddr::from([192, 0, 2, 7]);
    let guard = governor.inbound().peer(&key[..]).class(class).remote(address);
    let _guard = guard.weight(100).try_admit().unwrap();
    let texts = [Names::Shown, Names::Hashed, Names::LeftOut]
        .map(|names| governor.report(&ReportOptions::default().names(names)).to_string());
    for text in &texts {
        assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{text}");
        assert!(text.contains("\nclasses with the most bytes:\n  100 bytes"), "{text}");
    }
    let [shown, hashed, left_out] = texts;
    assert!(shown.contains(r#"\"\n\r\x1b[31m<script>\xff\x00"#) && shown.contains("192.0.2.7"));
    for text in [&hashed, &left_out] {
        assert!(!text.contains("<script>") && !text.contains("192.0.2.7"), "{text}");
    }
    let hash =
        governor.report(&ReportOptions::default().names(Names::Hashed)).peers[0].name.clone();
    assert_eq!(hash.as_ref().unwrap().len(), 16);
    assert!(hashed.contains(&hash.unwrap()));
}

#[test]
fn refusals_are_listed_with_the_most_frequent_first() {
    let limits = Limits::unlimited().system(scope().connections(1)).connection(scope().memory(1));
    let governor = governor(limits);
    let guard = admit(&governor);
    assert!(guard.try_lease(512).is_err());
    (0..2).for_each(|_| assert!(governor.inbound().try_admit().is_err()));
    let report = report(&governor);
    let counts: Vec<_> = report.refusals.iter().map(|row| (row.scope, row.count)).collect();
    assert_eq!(counts, [(Scope::System, 2), (Scope::Connection, 1)]);
    assert!(report.to_string().contains("\nrefusals:\n  2: system connections limit\n"));
}

#[cfg(feature = "serde")]
#[test]
fn the_report_is_json_under_the_names_of_its_fields() {
    let limits = Limits::unlimited().system(scope().connections(1));
    let governor = Governor::builder().name("edge").limits(limits).build().unwrap();
    let guard = admit(&governor);
    let _lease = guard.try_lease(512).unwrap();
    assert!(governor.inbound().try_admit().is_err());
    let json = serde_json::to_value(report(&governor)).unwrap();
    assert_eq!(json["governor"], "edge");
    assert_eq!(json["bottleneck"]["scope"], "system");
    assert_eq!(json["bottleneck"]["resource"], "connections");
    assert_eq!(json["bottleneck"]["utilization"], 1.0);
    assert!(json["bottleneck"]["advice"].is_string());
    assert_eq!(json["memory"]["outstanding_bytes"], 512);
    assert_eq!(json["scopes"].as_array().unwrap().len(), 4 * 8);
    assert!(json["scopes"][0]["limit"].is_null());
    assert_eq!(json["transient"][0]["id"], 1);
    assert_eq!(json["sites"][0]["kind"], "borrowed");
    assert_eq!(json["refusals"][0]["reason"], "limit");
}
