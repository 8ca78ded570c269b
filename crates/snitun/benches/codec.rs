//! The codec for each cipher: throughput of 16 KiB frames, rate of small frames.
//!
//! Encoding seals the header and copies the data behind it, as for a write. Decoding reads frames
//! from a buffer of 64 KiB, as one read fills it; data is cut out of the buffer without copying.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and its macros document nothing"
)]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use snitun::{
    ChannelId, Cipher, ClientHandshake, Decoder, Encoder, ProtocolVersion, ServerHandshake,
    Session, SessionKey,
};

/// Approximate size of one read.
const BUFFER: usize = 64 * 1024;
const ID: ChannelId = ChannelId([7; 16]);

/// The sessions of a server and its client.
fn sessions(cipher: Cipher) -> (Session, Session) {
    let key = || SessionKey::new([3; 32], [4; 16]).with_cipher(cipher);
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let (mut challenge, mut answer) = (Vec::new(), Vec::new());
    let server = ServerHandshake::new(key(), &mut random, &mut challenge).unwrap();
    let client = ClientHandshake::new(key())
        .answer(&mut challenge, &mut random, &mut answer)
        .unwrap();
    (server.verify(&mut answer).unwrap(), client)
}

fn encoder(cipher: Cipher) -> Encoder {
    let mut next = 0_u8;
    let random = Box::new(move |dest: &mut [u8]| {
        next = next.wrapping_add(1);
        dest.fill(next);
    });
    Encoder::new(sessions(cipher).0.sealer, ProtocolVersion::V1, random)
}

/// Fills the buffer with frames of `data`; returns the number of frames.
fn fill(encoder: &mut Encoder, data: &[u8], out: &mut Vec<u8>) -> usize {
    out.clear();
    let mut count = 0;
    while out.len() + data.len() <= BUFFER {
        encoder.data(ID, data.len() as u32, out).unwrap();
        out.extend_from_slice(data);
        count += 1;
    }
    count
}

fn codec(criterion: &mut Criterion) {
    for size in [16 * 1024 - 64, 100] {
        let data = vec![9; size];
        let mut group = criterion.benchmark_group(format!("frames of {size} bytes"));
        for cipher in Cipher::ALL {
            let mut out = Vec::with_capacity(2 * BUFFER);
            let mut writing = encoder(cipher);
            let count = fill(&mut writing, &data, &mut out);
            group.throughput(if size > 1000 {
                Throughput::Bytes((count * size) as u64)
            } else {
                Throughput::Elements(count as u64)
            });
            group.bench_function(BenchmarkId::new("encode", cipher), |bencher| {
                bencher.iter(|| fill(&mut writing, black_box(&data), &mut out));
            });
            fill(&mut encoder(cipher), &data, &mut out);
            group.bench_function(BenchmarkId::new("decode", cipher), |bencher| {
                bencher.iter_batched(
                    || {
                        let opener = sessions(cipher).1.opener;
                        let decoder = Decoder::new(opener, ProtocolVersion::V1);
                        (decoder, BytesMut::from(&out[..]))
                    },
                    |(mut decoder, mut input)| {
                        let mut frames = 0;
                        while let Some(frame) = decoder.decode(&mut input).unwrap() {
                            black_box(&frame);
                            frames += 1;
                        }
                        assert_eq!(frames, count);
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
