//! Codec and multiplexer from the writer's bytes to the reader's, without a socket: the upper bound
//! of a tunnel's performance. The bytes between the two ends are copied once, as by a socket.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and its macros document nothing"
)]

#[path = "../tests/it/support/pair.rs"]
mod pair;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pair::{CLIENT, Pair, SERVER};
use snitun::{ChannelKey, Cipher, Limits, ProtocolVersion, Read, Write};

struct Tunnel {
    pair: Pair,
    /// Both ends of each channel.
    channels: Vec<(ChannelKey, ChannelKey)>,
}

impl Tunnel {
    fn new(cipher: Cipher, channels: usize) -> Self {
        let mut pair = Pair::new(ProtocolVersion::V1, cipher, Limits::default(), 1);
        let servers: Vec<_> = (0..channels).map(|_| pair.open()).collect();
        pair.settle();
        let channels = servers
            .into_iter()
            .map(|server| (server, pair.accept()))
            .collect();
        Self { pair, channels }
    }

    /// Sends `data` through each channel; all readers wait for it.
    fn carry(&mut self, data: &[u8]) {
        for (server, client) in &self.channels {
            assert_eq!(self.pair.sides[CLIENT].mux.read(*client), Read::Blocked);
            let written = self.pair.sides[SERVER].mux.write(*server, data);
            assert_eq!(written, Write::Accepted(data.len()));
        }
        while self.pair.sides[SERVER].mux.has_output() {
            self.pair.write(SERVER, usize::MAX);
            self.pair.read(CLIENT, usize::MAX);
        }
        let client = &mut self.pair.sides[CLIENT].mux;
        while client.poll_event().is_some() {}
        for (_, key) in &self.channels {
            let mut left = data.len();
            while left > 0 {
                let Read::Data(piece) = client.read(*key) else {
                    panic!("something is missing");
                };
                left -= piece.len();
                std::hint::black_box(BytesMut::len(&piece));
            }
        }
    }
}

fn mux(criterion: &mut Criterion) {
    let mut bulk = criterion.benchmark_group("one channel, 64 KiB at a time");
    let data = vec![5; 64 * 1024];
    bulk.throughput(Throughput::Bytes(data.len() as u64));
    for cipher in Cipher::ALL {
        let mut tunnel = Tunnel::new(cipher, 1);
        bulk.bench_function(BenchmarkId::from_parameter(cipher), |bencher| {
            bencher.iter(|| tunnel.carry(&data));
        });
    }
    bulk.finish();

    let mut small = criterion.benchmark_group("32 channels, 100 bytes at a time");
    small.throughput(Throughput::Elements(32));
    for cipher in Cipher::ALL {
        let mut tunnel = Tunnel::new(cipher, 32);
        small.bench_function(BenchmarkId::from_parameter(cipher), |bencher| {
            bencher.iter(|| tunnel.carry(&[5; 100]));
        });
    }
    small.finish();
}

criterion_group!(benches, mux);
criterion_main!(benches);
