//! The inner loops of the mesh, timed: `cargo bench -p expman-bench`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use expman_bench::PIECES;

fn pieces(criterion: &mut Criterion) {
    for piece in PIECES {
        let mut group = criterion.benchmark_group(piece.name);
        group.throughput(Throughput::Elements(piece.of.into()));
        let mut work = (piece.make)();
        group.bench_function(piece.what, |bencher| bencher.iter(|| work.once()));
        group.finish();
    }
}

criterion_group!(micro, pieces);
criterion_main!(micro);
