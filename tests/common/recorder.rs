//! A recorder that keeps what it is given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

type Map<V> = Arc<Mutex<BTreeMap<Series, V>>>;

/// A metric's name and its labels, as `key=value`.
pub type Series = (String, Vec<String>);

#[derive(Default)]
pub struct Kept {
    pub counters: Map<u64>,
    pub gauges: Map<f64>,
    /// Values, each with how often it was recorded.
    pub samples: Map<Vec<(f64, usize)>>,
    pub described: Mutex<BTreeMap<String, (Option<Unit>, String)>>,
}

struct Cell<V>(Map<V>, Series);

impl<V: Default> Cell<V> {
    fn new(map: &Map<V>, key: &Key) -> Self {
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
        let series = (key.name().to_owned(), labels.collect());
        map.lock().unwrap().entry(series.clone()).or_default();
        Self(map.clone(), series)
    }
}

impl Kept {
    /// What is published through a recorder that is new.
    pub fn publish(governor: &leasehold::Governor) -> Self {
        let kept = Self::default();
        kept.publish_again(governor);
        kept
    }

    pub fn publish_again(&self, governor: &leasehold::Governor) {
        metrics::with_local_recorder(self, || governor.publish_metrics());
    }

    pub fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        sum(&self.counters, name, labels)
    }

    pub fn gauge(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.gauges, name, labels)
    }

    /// Every series, of whatever kind.
    pub fn series(&self) -> Vec<Series> {
        let mut all: Vec<_> = self.counters.lock().unwrap().keys().cloned().collect();
        all.extend(self.gauges.lock().unwrap().keys().cloned());
        all.extend(self.samples.lock().unwrap().keys().cloned());
        all
    }
}

/// The sum over all series of this name that have these labels.
fn sum<V: Copy + std::iter::Sum>(map: &Map<V>, name: &str, labels: &[&str]) -> V {
    let has = |all: &[String]| labels.iter().all(|label| all.iter().any(|has| has == label));
    let map = map.lock().unwrap();
    map.iter().filter(|((of, all), _)| of == name && has(all)).map(|(_, value)| *value).sum()
}

impl CounterFn for Cell<u64> {
    fn increment(&self, value: u64) {
        *self.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }

    fn absolute(&self, value: u64) {
        let mut map = self.0.lock().unwrap();
        let now = map.entry(self.1.clone()).or_default();
        assert!(value >= *now, "{:?} fell from {now} to {value}", self.1);
        *now = value;
    }
}

impl GaugeFn for Cell<f64> {
    fn increment(&self, _: f64) {
        panic!("gauges are set");
    }

    fn decrement(&self, _: f64) {
        panic!("gauges are set");
    }

    fn set(&self, value: f64) {
        self.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl HistogramFn for Cell<Vec<(f64, usize)>> {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        if count > 0 {
            self.0.lock().unwrap().entry(self.1.clone()).or_default().push((value, count));
        }
    }
}

impl Kept {
    fn describe(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.described.lock().unwrap().insert(name.as_str().to_owned(), (unit, help.into_owned()));
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(name, unit, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(Cell::new(&self.counters, key)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(Cell::new(&self.gauges, key)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Cell::new(&self.samples, key)))
    }
}
