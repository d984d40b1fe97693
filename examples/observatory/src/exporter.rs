//! The scrape: what the governor publishes, in Prometheus' text format.

use leasehold::Governor;
use leasehold::metrics::{PEAK_BYTES_BUCKETS, SECONDS_BUCKETS};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

/// Keeps the metrics of one observatory.
///
/// A program with one recorder installs it for the process, with
/// `PrometheusBuilder::install_recorder`, and then `maintain` publishes to it too. This one is
/// installed for the moment of each scrape, so that several can live in one process.
pub struct Exporter {
    recorder: PrometheusRecorder,
}

impl Exporter {
    /// An exporter that nothing was published to yet.
    #[expect(clippy::new_without_default, reason = "it is made for one purpose")]
    pub fn new() -> Self {
        let builder = with_buckets().expect("the buckets are not empty");
        Self { recorder: builder.build_recorder() }
    }

    /// What the governor counts and holds at this moment.
    pub fn render(&self, governor: &Governor) -> String {
        metrics::with_local_recorder(&self.recorder, || governor.publish_metrics());
        self.recorder.handle().render()
    }
}

/// Without buckets of its own a histogram would be shown as a summary, which cannot be added up.
fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.into());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full("leasehold_connection_seconds"), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(full("leasehold_connection_peak_bytes"), &PEAK_BYTES_BUCKETS)
}
