//! What a change costs the planner, and how that grows with the size of the cluster.

#![expect(clippy::expect_used, reason = "a benchmark on broken input should stop")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use decisions::cluster;
use plan::{Observed, Scope, diff, diff_frontend};

/// One endpoint of one service changes: the steps for that frontend, which must cost the same at every size.
fn one_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("diff of one frontend");
    for services in [10, 1_000, 10_000] {
        let desired = cluster(services, 2);
        let (observed, frontend) = one_endpoint_short(&desired);
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| {
                diff_frontend(frontend, observed.services.get(&black_box(frontend)), desired.get(&frontend))
            });
        });
    }
}

/// The whole plan is compared with the whole kernel: at start, on the slow timer and after a failure.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("diff of everything");
    for services in [10, 1_000, 10_000] {
        let desired = cluster(services, 2);
        let (observed, _) = one_endpoint_short(&desired);
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| diff(black_box(&observed), black_box(&desired), &Scope::everything()));
        });
    }
}

/// The state in which all of `desired` is there but for one backend of the first frontend.
fn one_endpoint_short(desired: &plan::Forwarding) -> (Observed, plan::Frontend) {
    let mut observed = Observed::default();
    for change in diff(&observed, desired, &Scope::everything()) {
        observed.advance(&change);
    }
    let (&frontend, service) = desired.first_key_value().expect("the cluster has services");
    let (&backend, _) = service.backends.first_key_value().expect("the service has endpoints");
    observed.advance(&plan::Change::RemoveBackend { frontend, backend });
    (observed, frontend)
}

criterion_group!(benches, one_change, whole);
criterion_main!(benches);
