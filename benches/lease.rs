//! Every contender under criterion, for regressions. For ratios see `ratios`.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use leasehold_benches::{CONTENDERS, Crew, THREADS, World, prepare_in};

fn contenders(criterion: &mut Criterion) {
    let crew = Crew::new(prepare_in(&World::new()));
    for threads in 1..=THREADS {
        let mut group = criterion.benchmark_group(format!("{threads} of {THREADS} threads"));
        for (index, contender) in CONTENDERS.iter().enumerate() {
            group.bench_function(contender.name, |bencher| {
                bencher.iter_custom(|times| {
                    let nanos = crew.measure(index, threads, times) * times as f64;
                    Duration::from_nanos(nanos as u64)
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = lease;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = contenders
}
criterion_main!(lease);
