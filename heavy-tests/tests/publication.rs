//! P12 with a crowd: 100,000 peers with hostile keys and as many class names make no series, and do no
//! harm in a report.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

#[path = "../../tests/common/recorder.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod recorder;

use leasehold::{Governor, Limits, ReportOptions, ScopeLimits};
use recorder::Kept;

const PEERS: u32 = 100_000;

#[test]
fn a_crowd_with_hostile_names_makes_no_series_and_its_report_is_text() {
    let limits = Limits::unlimited().peer(ScopeLimits::unlimited().connections(2));
    let governor = Governor::new(limits).expect("valid limits");
    let before = Kept::publish(&governor).series();
    let hostile = [&b"\n# HELP x"[..], b"\"} 1\n", b"\xff\xfe\x00", &[b'\\'; 60]];
    let admit = |nth: u32| {
        let mut key = hostile[nth as usize % hostile.len()].to_vec();
        key.extend(nth.to_le_bytes());
        let class = format!("\n\"{nth}\u{202e}</script>");
        governor.inbound().peer(&key[..]).class(&class).try_admit().expect("room")
    };
    let guards: Vec<_> = (0..PEERS).map(admit).collect();
    assert_eq!(Kept::publish(&governor).series(), before);
    let report = governor.report(&ReportOptions::default());
    let text = report.to_string();
    assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{text}");
    assert!(text.lines().count() < 200);
    assert_eq!(report.sites[0].count, u64::from(PEERS));
    drop(guards);
    governor.assert_quiescent();
    assert_eq!(Kept::publish(&governor).series(), before);
}
