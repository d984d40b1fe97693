//! Each planted leak is found: the report names its line, and the alert of its family fires.
//!
//! The second half is left to Prometheus: these tests write what an hour of scrapes would have seen, as
//! a test of rules that `check.sh` gives to promtool.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use clap::ValueEnum;
use leasehold::{Governor, Host, NodeType, ReportOptions, SubnetLimits};
use observatory::{Exporter, Leak, Planter};
use serde_json::Value;

const SOURCE: &str = include_str!("../src/leaks.rs");

/// How a leak shows.
struct Signs {
    /// The kind of the row among the lines that hold something.
    kind: &'static str,
    orphaned: bool,
    /// All alerts that fire after an hour of it.
    alerts: &'static [&'static str],
}

fn signs(leak: Leak) -> Signs {
    let held = |kind| Signs { kind, orphaned: false, alerts: &["LeaseholdHeldGrowing"] };
    let orphan = |kind| Signs { kind, orphaned: true, alerts: &["LeaseholdOrphansGrowing"] };
    let piles = |kind| Signs { kind, orphaned: false, alerts: &["LeaseholdConnectionsGrowing"] };
    match leak {
        Leak::StaticLease => held("owned"),
        Leak::ForgottenBorrow => held("borrowed"),
        // Reservations are bytes of their connection, and of the line that admitted it.
        Leak::ForgottenReservation => held("connection"),
        Leak::DetachedBytes | Leak::CachedSlice | Leak::StalledQueue => orphan("detached"),
        Leak::PinnedCycle | Leak::PinAcrossAwait => orphan("pinned"),
        Leak::ForgottenGuard => piles("connection"),
        Leak::StalledTask => piles("borrowed"),
        Leak::StreamNeverClosed => {
            Signs { kind: "stream", orphaned: false, alerts: &["LeaseholdStreamsGrowing"] }
        }
        Leak::TransientPeer => Signs {
            alerts: &["LeaseholdConnectionsGrowing", "LeaseholdTransientFull"],
            ..piles("connection")
        },
    }
}

fn name(leak: Leak) -> String {
    leak.to_possible_value().unwrap().get_name().to_owned()
}

fn govern() -> Governor {
    let host = Host::new(1 << 30, 65_536).with_budget(128 << 20);
    let limits = NodeType::Full.limits(&host).subnets(SubnetLimits::unlimited());
    Governor::builder().name("echo").limits(limits).build().unwrap()
}

fn report(governor: &Governor) -> Value {
    serde_json::to_value(governor.report(&ReportOptions::default())).unwrap()
}

/// Where the line with the leak's name is, as reports write it.
fn planting_line(leak: Leak) -> String {
    let mark = format!("// {}", name(leak));
    let mut lines = (1..).zip(SOURCE.lines()).filter(|(_, line)| line.ends_with(&mark));
    let (line, _) = lines.next().unwrap_or_else(|| panic!("no line is marked {mark}"));
    assert!(lines.next().is_none(), "{mark} is on two lines");
    format!("src/leaks.rs:{line}:")
}

#[tokio::test]
async fn the_report_names_the_line_of_each_leak() {
    for &leak in Leak::value_variants() {
        let governor = govern();
        let planter = Planter::new(&governor).unwrap();
        for _ in 0..3 {
            planter.plant(leak).await.unwrap();
        }
        let report = report(&governor);
        let (line, signs) = (planting_line(leak), signs(leak));
        let at_line = |row: &&Value| row["site"].as_str().unwrap().starts_with(&line);
        let is_sign = |row: &&Value| row["kind"] == signs.kind && row["orphaned"] == signs.orphaned;
        let sites = report["sites"].as_array().unwrap();
        let site = sites.iter().filter(at_line).find(is_sign);
        let site = site.unwrap_or_else(|| panic!("{leak:?}: {line} is not in {report:#}"));
        // All three reservations are on the one connection.
        let count = if leak == Leak::ForgottenReservation { 1 } else { 3 };
        assert_eq!(site["count"], count, "{leak:?}");
        if leak == Leak::ForgottenReservation {
            assert_eq!(site["bytes"], 3 * 4096);
        }
        if leak == Leak::TransientPeer {
            let unbound = report["transient"].as_array().unwrap();
            assert_eq!(unbound.iter().filter(at_line).count(), 3);
        }
        assert!(governor.report(&ReportOptions::default()).to_string().contains(&line));
    }
}

#[tokio::test]
async fn without_a_leak_nothing_is_named() {
    let governor = govern();
    let planter = Planter::new(&governor).unwrap();
    drop(planter);
    assert!(report(&governor)["sites"].as_array().unwrap().is_empty());
    governor.assert_quiescent();
}

#[tokio::test]
async fn each_leak_is_written_as_an_hour_of_scrapes() {
    let mut tests = String::from("rule_files: [alerts.yml]\nevaluation_interval: 1m\ntests:\n");
    for &leak in Leak::value_variants() {
        let governor = govern();
        let planter = Planter::new(&governor).unwrap();
        let series = an_hour_of(&governor, || planter.plant(leak)).await;
        write_test(&mut tests, &name(leak), &series, signs(leak).alerts);
    }
    // A forgotten lease comes back at the end of its connection.
    let governor = govern();
    let series = an_hour_of(&governor, || async {
        let planter = Planter::new(&governor)?;
        planter.plant(Leak::ForgottenBorrow).await
    });
    write_test(&mut tests, "taken back", &series.await, &["LeaseholdForgottenLeases"]);
    // The last orphan of a server that has no connection any more.
    let governor = govern();
    let mut once = Some(Planter::new(&governor).unwrap());
    let series = an_hour_of(&governor, || {
        let planter = once.take();
        async move {
            match planter {
                Some(planter) => planter.plant(Leak::DetachedBytes).await,
                None => Ok(()),
            }
        }
    });
    write_test(&mut tests, "without", &series.await, &["LeaseholdHeldWithoutConnections"]);

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::write(folder.join("leaks_test.yml"), tests).unwrap();
    fs::copy("alerts.yml", folder.join("alerts.yml")).unwrap();
}

/// Scrapes once for each minute, and plants from minute 12 on. Values by series.
async fn an_hour_of<E: std::fmt::Debug, F: Future<Output = Result<(), E>>>(
    governor: &Governor,
    mut plant: impl FnMut() -> F,
) -> BTreeMap<String, Vec<String>> {
    let exporter = Exporter::new();
    let mut series = BTreeMap::<String, Vec<String>>::new();
    for minute in 0..=HOUR {
        if minute >= FIRST {
            // The transient scope refuses what is beyond its limit.
            let _refused = plant().await;
        }
        for line in exporter.render(governor).lines() {
            if let Some((name, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) {
                let values = series.entry(name.to_owned()).or_default();
                values.resize(minute, "_".into());
                values.push(value.replace("inf", "Inf"));
            }
        }
    }
    series
}

const HOUR: usize = 60;
const FIRST: usize = 12;

fn write_test(
    tests: &mut String,
    name: &str,
    series: &BTreeMap<String, Vec<String>>,
    alerts: &[&str],
) {
    let mut write = |line: String| writeln!(tests, "{line}").unwrap();
    write(format!("- name: {name}\n  interval: 1m\n  input_series:"));
    for (series, values) in series {
        let (family, labels) = series.split_once('{').unwrap();
        write(format!("  - series: '{family}{{job=\"leasehold\",instance=\"a:9187\",{labels}'"));
        write(format!("    values: '{}'", values.join(" ")));
    }
    let firing = "count by (alertname) (ALERTS{alertstate=\"firing\"})";
    write("  promql_expr_test:".into());
    for (minute, alerts) in [(FIRST - 1, &[][..]), (HOUR, alerts)] {
        write(format!("  - expr: {firing}\n    eval_time: {minute}m\n    exp_samples:"));
        if alerts.is_empty() {
            write("      []".into());
        }
        for alert in alerts {
            write(format!("    - labels: '{{alertname=\"{alert}\"}}'\n      value: 1"));
        }
    }
}
