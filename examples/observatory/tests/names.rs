//! The dashboard, the alerts and the README name metrics that the program exports, and the README names
//! all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use leasehold::{Governor, Limits, Observe, Scope, ScopeLimits};
use observatory::{Exporter, Observatory, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const DASHBOARD: &str = include_str!("../grafana.json");
const ALERTS: &str = include_str!("../alerts.yml");
const ALERT_TESTS: &str = include_str!("../alerts_test.yml");
const README: &str = include_str!("../README.md");

/// Every word in `text` that begins with `prefix` and goes on in the letters of a name.
fn names<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).filter_map(move |(start, _)| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let whole = !text[..start].ends_with(is_part);
        let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |end| start + end);
        whole.then_some(&text[start..end])
    })
}

/// The families of a scrape, with their types.
fn families(scrape: &str) -> BTreeMap<&str, &str> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split_once(' ')).collect()
}

/// The series by which PromQL finds a family.
fn series(families: &BTreeMap<&str, &str>) -> BTreeSet<String> {
    let of = |(name, kind): (&&str, &&str)| {
        let suffixes: &[&str] =
            if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect::<Vec<_>>()
    };
    families.iter().flat_map(of).collect()
}

async fn get(observatory: &Observatory, path: &str) -> String {
    let mut socket = TcpStream::connect(observatory.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: observatory\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{path}: {response}");
    response
}

/// A scrape of the running program, once it has refused and observed something.
async fn scrape() -> String {
    let options = Options { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..Options::default() };
    let observatory = Observatory::start(&options).await.unwrap();
    let late = Instant::now() + Duration::from_secs(120);
    loop {
        let scrape = get(&observatory, "/metrics").await;
        let has = |name: &str| scrape.contains(&format!("\n{name}{{"));
        if has("leasehold_refusals_total") && has("leasehold_observed_refusals_total") {
            for path in ["/", "/report", "/report.json", "/report?names=hashed"] {
                get(&observatory, path).await;
            }
            return scrape;
        }
        assert!(Instant::now() < late, "nothing was refused: {scrape}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_is_named_is_exported_and_what_is_exported_is_documented() {
    let scrape = scrape().await;
    let families = families(&scrape);
    let series = series(&families);
    for (file, text) in
        [("grafana.json", DASHBOARD), ("alerts.yml", ALERTS), ("alerts_test.yml", ALERT_TESTS)]
    {
        let missing: BTreeSet<_> =
            names(text, "leasehold_").filter(|name| !series.contains(*name)).collect();
        assert!(missing.is_empty(), "{file} names what is not exported: {missing:?}");
    }
    let documented: BTreeSet<_> = names(README, "leasehold_").collect();
    let exported: BTreeSet<_> = families.keys().copied().collect();
    assert_eq!(documented, exported, "on the left the README");
    let shown: BTreeSet<_> = names(DASHBOARD, "leasehold_").collect();
    let unseen: Vec<_> = series
        .iter()
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| !shown.contains(name.as_str()))
        .collect();
    assert!(unseen.is_empty(), "no panel shows {unseen:?}");
    for line in README.lines().filter(|line| line.starts_with("| `leasehold_")) {
        let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`'));
        let (name, kind) = (cells.nth(1).unwrap(), cells.next().unwrap());
        assert_eq!(families[name], kind, "the type of {name}");
    }
}

#[test]
fn what_alerts_read_of_rules_is_recorded() {
    let recorded: BTreeSet<_> =
        ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let read: BTreeSet<_> = names(ALERTS, "leasehold:").collect();
    assert_eq!(read, recorded);
}

#[test]
fn every_alert_is_tested_and_has_a_runbook() {
    let anchors: BTreeSet<_> = README
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let mut alerts = 0;
    for alert in ALERTS.split("- alert: ").skip(1) {
        alerts += 1;
        let name = alert.lines().next().unwrap();
        for part in ["severity: ", "summary: ", "description: ", "runbook_url: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let (_, url) = alert.split_once("runbook_url: examples/observatory/README.md#").unwrap();
        let anchor = url.lines().next().unwrap();
        assert!(anchors.contains(anchor), "{name} leads to {anchor}, which is not in the README");
        assert!(README.contains(&format!("**{name}**")), "no runbook is about {name}");
        let tests = ALERT_TESTS.split("alertname: ").skip(1).filter(|test| test.starts_with(name));
        let (quiet, fires): (Vec<_>, Vec<_>) =
            tests.partition(|test| test.lines().nth(1).unwrap().trim() == "exp_alerts: []");
        assert!(!quiet.is_empty() && !fires.is_empty(), "{name} is not tested both ways");
    }
    assert!(alerts > 0);
}

/// Names of peers and classes are in the report, and nowhere in the scrape.
#[test]
fn the_scrape_has_no_name_that_a_peer_chose() {
    let limits = Limits::unlimited()
        .peer(ScopeLimits::unlimited().connections(1))
        .observe(Observe::none().scope(Scope::Peer));
    let governor = Governor::builder().name("edge").limits(limits).build().unwrap();
    let exporter = Exporter::new();
    let admit = |name: &[u8]| governor.inbound().peer(name).class("a\"b\n").try_admit().unwrap();
    let mut guards = vec![admit(b"first"), admit(b"first")];
    let series = |scrape: &str| scrape.lines().filter(|line| !line.starts_with('#')).count();
    let few = series(&exporter.render(&governor));
    for number in 0..1000 {
        guards.push(admit(format!("evil\"}} 1\n{number}").as_bytes()));
    }
    let scrape = exporter.render(&governor);
    assert_eq!(series(&scrape), few);
    assert!(!scrape.contains("evil") && !scrape.contains("first") && !scrape.contains("a\"b"));
}
