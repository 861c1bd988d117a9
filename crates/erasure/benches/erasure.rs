//! Encode, decode with losses, and checksums, in bytes of blob per second.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use erasure::{Code, checksum, decode, encode};

fn codes(criterion: &mut Criterion) {
    for (name, code) in [("rs42", Code { data: 4, parity: 2 }), ("rs84", Code { data: 8, parity: 4 })] {
        for bytes in [16 << 10, 1 << 20, 8 << 20] {
            let blob = Bytes::from((0..bytes).map(|at: usize| (at * 31 % 251) as u8).collect::<Vec<u8>>());
            let shards = encode(code, std::slice::from_ref(&blob));
            let mut group = criterion.benchmark_group(format!("{name}/{}KiB", bytes >> 10));
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function("encode", |bencher| bencher.iter(|| encode(code, std::slice::from_ref(&blob))));
            let mut left: Vec<Option<Bytes>> = shards.iter().cloned().map(Some).collect();
            group.bench_function("decode whole", |bencher| bencher.iter(|| decode(code, bytes, &left)));
            left[0] = None;
            group.bench_function("decode, one lost", |bencher| bencher.iter(|| decode(code, bytes, &left)));
            group.bench_function("checksum", |bencher| bencher.iter(|| checksum(&blob)));
            group.finish();
        }
    }
}

criterion_group!(benches, codes);
criterion_main!(benches);
